"""The commands as processes with real models: what is on stdout, on stderr, and the exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from programs import COMMAND, DEADLINE_S, Result, environment, headrace, running
from terminal import CTRL_C, CTRL_D, terminal

from headrace.core.config import DEFAULT_MODEL

# Every test asks for the fixture of its model: it sees that the model is there. Named models start
# quicker than files, for their tokenizers are cached.
pytestmark = pytest.mark.usefixtures("qwen05_path")

QUESTION = "What is 2 + 2? Answer with the number only."
SUMMARY = re.compile(
    r"(?P<input>\d+) prompt tokens, (?P<output>\d+) generated, first token after \d+\.\d\d s"
    r"(, \d+\.\d tokens/s( over \d+)?)?(, cut at the length limit)?\n"
)


def run(*arguments: str | Path, **options: str) -> Result:
    return headrace("run", *arguments, **options)


def test_the_answer_is_on_stdout_and_one_line_on_stderr() -> None:
    result = run(QUESTION)
    assert (result.code, result.stdout) == (0, "4\n")
    summary = SUMMARY.fullmatch(result.stderr)
    assert summary, result.stderr
    assert int(summary["output"]) == 2  # "4" and the end


def test_a_prompt_from_stdin_as_json_and_a_quiet_stderr(qwen05_path: Path) -> None:
    piped = run("--model", qwen05_path, "--json", "--quiet", stdin=QUESTION)
    answer = json.loads(piped.stdout)
    assert answer["text"] == "4"
    assert (answer["finish_reason"], answer["output_tokens"]) == ("stop", 2)
    assert answer["input_tokens"] > 20 and answer["cached_input_tokens"] == 0
    assert 0 < answer["ttft_s"] <= answer["total_s"]
    assert answer["model"] == qwen05_path.stem
    assert piped.stderr == ""


def test_an_answer_longer_than_the_context_is_refused_not_shortened() -> None:
    result = run(QUESTION, "--max-tokens", "99999")
    assert (result.code, result.stdout) == (1, "")
    assert "and asks for 99999 more. Shorten the prompt or lower max_tokens." in result.stderr


def test_a_piped_text_goes_below_the_prompt() -> None:
    """`cat notes.txt | headrace run "..."` of the guide: without the text nobody could answer."""
    ask = "Repeat the code word of this text, and nothing else:"
    result = run(ask, stdin="The code word is: zebra\n")
    assert "zebra" in result.stdout.lower()
    assert int(SUMMARY.fullmatch(result.stderr)["input"]) > int(
        SUMMARY.fullmatch(run(ask, "--max-tokens", "1").stderr)["input"]
    )


def test_a_seed_repeats_and_another_differs() -> None:
    ask = ("Write a poem about rivers.", "--temperature", "1.5", "--max-tokens", "8", "--seed")
    first, again, other = (run(*ask, seed) for seed in ("7", "7", "8"))
    assert first.code == 0
    assert first.stdout == again.stdout != other.stdout
    assert "8 generated" in first.stderr and "cut at the length limit" in first.stderr


def test_raw_text_from_a_dash_to_a_stop() -> None:
    result = run(
        "-",
        "--raw",
        "--stop",
        " seven",
        "--max-tokens",
        "16",
        stdin="One, two, three, four,",
    )
    assert result.stdout == " five, six,\n"
    assert int(SUMMARY.fullmatch(result.stderr)["input"]) == 8


def test_a_model_without_a_chat_template_continues_the_prompt(gemma_path: Path) -> None:
    result = run("--model", "gemma3:270m", "The capital of France is", "--max-tokens", "8")
    note, summary = result.stderr.splitlines(keepends=True)
    assert note == (
        "note: this model has no chat template: it does not answer, it continues the prompt as "
        "plain text\n"
    )
    assert SUMMARY.fullmatch(summary)
    assert "France" in result.stdout


def test_ctrl_c_keeps_what_has_come(tmp_path: Path) -> None:
    with running(tmp_path, "run", "Count from 1 to 1000.") as program:
        program.wait_for(lambda: len(program.stdout) > 3, "the first words of the answer")
        program.interrupt()
        assert program.end() == 130
        assert program.stdout.startswith("1")
        assert program.stdout.endswith("\n")
        assert re.fullmatch(
            r"\n\d+ prompt tokens, \d+ generated, .*, interrupted\n", program.stderr
        )


def test_a_reader_that_leaves_early_ends_the_answer() -> None:
    """`headrace run ... | head -c 1`: it stops at once, without a traceback."""
    command = [*COMMAND, "run", "Count from 1 to 1000."]
    reader, writer = os.pipe()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        os.close(writer)
        assert os.read(reader, 1) == b"1"
        os.close(reader)
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert errors == ""


def test_a_conversation(qwen05_path: Path, tmp_path: Path) -> None:
    arguments = [*COMMAND, "chat", "--model", str(qwen05_path), "--temperature", "0"]
    with terminal(arguments, environment(HEADRACE_HOME=str(tmp_path))) as screen:
        screen.expect(r"/help for commands, Ctrl-D leaves\.\n> $")
        screen.type("/help\n")
        screen.expect(r"/reset +forget the conversation.*> $")
        screen.type("My name is Zoltan. Reply with OK only.\n")
        screen.expect(r"only\.\n.*OK.*\n> $")
        screen.type("What is my name? Reply with the name only.\n")
        screen.expect(r"name only\.\n.*Zoltan.*> $")
        screen.type("/reset\n")
        screen.expect(r"\(the conversation is empty\)\n> $")
        screen.type("What is my name? Reply with the name only.\n")
        after = screen.expect(r"empty\).*name only\.\n(.*)\n+> $")
        assert "Zoltan" not in after[1]
        screen.type("Count from 1 to 1000.\n")
        screen.expect(r"1000\.\n.*1, 2|1000\.\n1")
        screen.type(CTRL_C)
        screen.expect(r"\n\(stopped\)\n> $")
        screen.press_until(CTRL_C, r"\(Ctrl-D or /exit leaves\)\n> $")
        screen.type(CTRL_D)
        assert screen.end() == 0
    assert (tmp_path / "chat_history").stat().st_mode & 0o777 == 0o600


def test_chat_reads_a_pipe(tmp_path: Path) -> None:
    conversation = f"{QUESTION}\n/save {tmp_path / 'said.json'}\n/exit\n"
    result = headrace("chat", "--temperature", "0", stdin=conversation)
    assert result.code == 0
    said = json.loads((tmp_path / "said.json").read_text())["messages"]
    assert [message["role"] for message in said] == ["user", "assistant"]
    assert said[1]["content"].strip() == "4"


def test_models_and_env_know_the_model(qwen05_path: Path) -> None:
    rows = json.loads(headrace("models", "--json").stdout)
    default = next(row for row in rows if row["is_default"])
    assert default["is_local"] and default["path"] == str(qwen05_path)
    found = json.loads(headrace("env", "--json").stdout)
    assert found["problems"] == []
    assert Path(found["store_path"]) in qwen05_path.parents
    assert found["num_models"] >= 1 and found["store_bytes"] >= qwen05_path.stat().st_size
    assert found["isa"] in [tier["name"] for tier in found["isas"] if tier["is_available"]]


def test_bench_measures(qwen05_path: Path) -> None:
    tiny = ("--rounds", "1", "--prompt-tokens", "32", "--decode-tokens", "4", "--concurrency", "2")
    result = headrace("bench", DEFAULT_MODEL, "--json", *tiny)
    assert result.code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["model"] == DEFAULT_MODEL
    assert report["settings"]["concurrency"] == 2
    (only,) = report["rounds"]
    assert only["prefill_tokens_per_s"] > 0 and only["concurrent_output_tokens_per_s"] > 0
    # Times are the machine's own; what they stand beside is not.
    stream_bytes = report["work"]["stream_bytes"]
    assert 0.5 < stream_bytes / qwen05_path.stat().st_size < 1
    gb_per_s = stream_bytes * only["decode_tokens_per_s"] / 1e9
    assert only["decode_gb_per_s"] == pytest.approx(gb_per_s)
    share = gb_per_s * 1e9 / only["roof"]["read_bytes_per_s"]
    assert only["decode_share_of_bandwidth"] == pytest.approx(share) and share > 0
    assert result.stderr.startswith("round 1: prefill ")
