"""The command line as a process: exit codes, one line per failure, time to the help page."""

from __future__ import annotations

import importlib
import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fakes.download_site import CONTENT, open_site, sha256
from fakes.gguf_file import GgufFile
from headrace.cli.app import COMMANDS, build_app
from headrace.cli.main import main
from headrace.cli.other_servers import FLAGS
from headrace.text.tokenizer_cache import cache_path
from headrace.weights.gguf import GgufReader

SMALL = b"GGUF" + bytes(1000)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Commands direct the log to stderr, which pytest replaces after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def headrace(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: text for name, text in os.environ.items() if "HEADRACE" not in name}
    return subprocess.run(
        [sys.executable, "-m", "headrace", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**inherited, "HEADRACE_HOME": str(home), "COLUMNS": "100", **environ},
    )


def put_by_hand(home: Path, name: str) -> Path:
    path = home / "models" / f"{name}.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(SMALL)
    return path


def test_help_names_every_command(home: Path) -> None:
    result = headrace(home, "--help")
    assert result.returncode == 0
    for name, command in COMMANDS.items():
        assert name in result.stdout
        assert command.summary in " ".join(result.stdout.split())


def test_help_imports_no_command() -> None:
    """What keeps it quick; tests/e2e measures how quick."""
    code = (
        "import sys, headrace.cli.app as m\n"
        "m.build_app(['--help'])(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'yaml', 'rich', 'headrace.hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.rstrip().endswith("[]")


def test_no_command_shows_the_help(home: Path) -> None:
    result = headrace(home)
    assert result.returncode == 2
    assert "Commands:" in result.stdout


def test_version(home: Path) -> None:
    result = headrace(home, "--version")
    assert result.returncode == 0
    assert result.stdout.startswith("headrace ")


def help_pages(*words: str) -> Iterator[tuple[str, str]]:
    """Of a command and those in it."""
    page = CliRunner().invoke(build_app([*words]), [*words, "--help"]).output
    yield " ".join(words), page
    _, _, inner = page.partition("\nCommands:\n")
    for name in re.findall(r"^  ([a-z-]+)", inner, re.MULTILINE):
        yield from help_pages(*words, name)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_neither_two_dots_nor_two_defaults(name: str) -> None:
    for words, page in help_pages(name):
        usage, _, rest = page.partition("\n\n")
        assert "Usage: " in usage, words
        assert not re.search(r"\[\[|\.\.\.\]", usage), usage
        for entry in re.split(r"\n(?=  \S)", rest):
            text = " ".join(entry.split())
            assert len(re.findall(r"[Dd]efault: ", text)) < 2, text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_table_names_functions_with_words(name: str) -> None:
    module_name, _, function_name = COMMANDS[name].target.partition(":")
    assert module_name.startswith("headrace.cli.")
    function = getattr(importlib.import_module(module_name), function_name)
    assert function.__doc__
    assert COMMANDS[name].summary.endswith(".")


def test_flags_of_other_servers_are_in_the_guide_and_not_our_own() -> None:
    guide = (Path(__file__).parents[3] / "docs/guides/serve.md").read_text(encoding="utf-8")
    page = CliRunner().invoke(build_app(["serve"]), ["serve", "--help"]).output
    for flag in FLAGS:
        assert f"`{flag}" in guide, flag
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", page) is None, flag


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["pul"], 2, "Did you mean 'pull'?"),
        (["pull"], 2, "Missing argument"),
        (["pull", "--nope"], 2, "No such option"),
        (["pull", "nonsense"], 1, "error: The model 'nonsense' does not exist here."),
        (["pull", ""], 2, "error: NAME is ''"),
        (["pull", "ftp://example.com/x.gguf"], 2, "error: NAME is 'ftp://"),
        (
            ["pull", "http://example.com/x.gguf"],
            2,
            "allowed: an https URL, or http on this machine.",
        ),
        (["pull", "https://example.com/x.zip"], 2, "ends in the name of a .gguf file"),
        (["pull", "/no/such.gguf"], 1, "There is no file or folder /no/such.gguf."),
        (["pull", __file__], 1, "begins with the text"),
        (["rm", "nonsense"], 1, "does not exist here. On this machine: no model yet."),
        (
            ["pull", "gemma3:270m", "--config", "/none.yaml"],
            2,
            "error: --config is '/none.yaml'",
        ),
        (["rm", "--yes", "nonsense"], 1, "error: The model 'nonsense' does not exist here."),
        (["rm", "--yes", "gemma3:270m"], 1, "error: The model 'gemma3:270m' does not exist here."),
        (["models", "extra"], 2, "unexpected extra argument"),
        (["serve", "--nope"], 2, "No such option: --nope (Possible options: --no-pull)"),
        (["serve", "--gpu-memory-utilization=0.5"], 2, "Here: --memory SIZE, weights included."),
        (["serve", "m", "--pipeline-parallel-size", "2"], 2, "Here: --tensor-parallel-size N div"),
        (["serve", "m", "--tensor-parallel-size", "2"], 2, "--tensor-parallel-size is 2; allowed"),
        (["serve", "--api-key", "x"], 2, "--api-key. Here: `headrace keys create NAME` makes a"),
        (["serve", "-c", "4096"], 2, "No such option: -c. Here: --max-model-len N, for each"),
        (["serve", "-np", "2"], 2, "No such option: -np. Here: --max-num-seqs N."),
        (["serve", "-ngl", "99"], 2, "No such option: -ngl. Here: leave it out: a model is on"),
        (["serve", "--tp", "2"], 2, "No such option: --tp. Here: --tensor-parallel-size N."),
        (["serve", "-n", "9"], 2, "No such option: -n. Here: --default-max-tokens N."),
        (["bench", "serve", "--model", "x"], 2, "--model. Here: the model is an argument, as in"),
        (["bench", "serve", "--num-prompts=9"], 2, "--num-prompts. Here: --num-requests N."),
        (
            ["serve", "--adapter-memory", "1GiB"],
            2,
            "--adapter-memory is '1.0 GiB'; allowed: no",
        ),
        (["serve", "--require-key"], 2, "--require-key is true; allowed: true once there is"),
        (
            ["run", "hi", "--seed", "1", "--seed=2"],
            2,
            "--seed is given 2 times; allowed: one va",
        ),
        (["run", "\udcff\udcfe"], 2, "PROMPT is '\\xff\\xfe'; allowed: text in UTF-8. Byte 0, "),
        (["run", "hi", "--system", "a\udcff"], 2, "error: --system is 'a\\xff'; allowed: text in"),
        (["embed", "a", "b\udcff"], 2, "error: TEXT 2 is 'b\\xff'; allowed: text in UTF-8."),
        (["run", "hi", "--max-tokens", "9" * 20], 2, "--max-tokens is 99999999999999999999; allo"),
        (["keys", "create", ""], 2, "error: NAME is ''; allowed: 1 to 64 printable characters"),
        (["pull", "/dev/null"], 1, "/dev/null is neither a file nor a folder."),
    ],
)
def test_failures_are_one_line_and_an_exit_code(
    arguments: list[str],
    code: int,
    text: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    restored_logging: None,
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(home))
    monkeypatch.delenv("HEADRACE_LOG_LEVEL", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    shown = capsys.readouterr()
    assert stop.value.code == code
    assert text in " ".join(shown.err.split())
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_wrong_settings_name_the_variable(home: Path) -> None:
    result = headrace(home, "models", HEADRACE_NUM_THREADS="many", HEADRACE_ISAA="1")
    assert result.returncode == 2
    assert "error: HEADRACE_NUM_THREADS is 'many'; allowed: a whole number." in result.stderr
    assert "HEADRACE_ISAA is not read by headrace. Did you mean HEADRACE_ISA?" in result.stderr


def test_more_threads_than_cores_are_warned_of_once(home: Path) -> None:
    for arguments in (("--threads", "999"), ("--threads", "1"), ("--threads", "999", "--quiet")):
        result = headrace(home, "run", "hi", "--no-pull", *arguments)
        is_warned = arguments == ("--threads", "999")
        assert result.stderr.count("warning: 999 threads on ") == is_warned
        assert result.stderr.count("\n") == 1 + is_warned


def test_debug_shows_the_traceback(home: Path) -> None:
    result = headrace(home, "pull", "nonsense", HEADRACE_LOG_LEVEL="debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "error: The model 'nonsense'" in result.stderr


def test_offline_names_every_source(home: Path) -> None:
    result = headrace(home, "pull", "qwen2.5-coder", HEADRACE_OFFLINE="1")
    assert result.returncode == 1
    error = result.stderr[result.stderr.index("error:") :]
    sources = [line.split(":")[0].strip() for line in error.splitlines()[1:]]
    assert sources == ["huggingface", "pypi"]


def test_a_home_that_cannot_be_used(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for home, what in ((blocked, "It"), (blocked / "below", str(blocked))):
        result = headrace(home, "run", "hi")
        assert result.returncode == 2
        assert result.stderr == (
            f"error: hub.home (HEADRACE_HOME) is '{home}'; allowed: a folder, or a place where one "
            f"can be made. {what} is a file. Name another folder, or leave it out for "
            "~/.cache/headrace.\n"
        )


def test_a_home_where_no_folder_can_be_made() -> None:
    result = headrace(Path("/proc/nope"), "pull", "gemma3:270m", HEADRACE_OFFLINE="1")
    assert result.returncode == 2
    assert result.stderr == (
        "error: hub.home (HEADRACE_HOME) is '/proc/nope'; allowed: a folder, or a place where one "
        "can be made. No folder can be made there. Name another folder, or leave it out for "
        "~/.cache/headrace.\n"
    )


def test_models_as_a_table_and_as_json(home: Path) -> None:
    path = put_by_hand(home, "own")
    table = headrace(home, "models")
    assert table.returncode == 0
    lines = table.stdout.splitlines()
    assert lines[0].split() == ["NAME", "PARAMS", "QUANT", "SIZE", "CONTEXT", "LICENCE", "LOCAL"]
    assert lines[1].split()[:2] == ["qwen2.5-coder:0.5b", "(default)"]
    assert lines[-1].split() == ["own", "-", "-", "1004", "B", "-", "-", "yes"]
    rows = json.loads(headrace(home, "models", "--json").stdout)
    assert len(rows) > 1
    assert [row["is_local"] for row in rows] == [False] * (len(rows) - 1) + [True]
    assert rows[0]["num_parameters"] == 494032768
    assert rows[-1]["path"] == str(path)


def test_names_stay_whole_on_80_columns(home: Path) -> None:
    path = put_by_hand(home, "my-own-model-8b-q4_k_m")
    ours, theirs = pty.openpty()
    environ = {**os.environ, "HEADRACE_HOME": str(home), "COLUMNS": "80", "TERM": "dumb"}
    for command, names in (
        ("models", ["qwen2.5-coder:0.5b (default)", "gemma3:270m (base)", path.stem]),
        ("env", ["engine.enable_prefix_caching", "server.default_max_tokens"]),
    ):
        with subprocess.Popen(
            [sys.executable, "-m", "headrace", command], stdout=theirs, stderr=theirs, env=environ
        ) as process:
            shown = ""
            # The terminal holds little: it is read while the command writes.
            while process.poll() is None or select.select([ours], [], [], 0.05)[0]:
                if select.select([ours], [], [], 0.05)[0]:
                    shown += os.read(ours, 65536).decode()
        assert process.returncode == 0, shown
        lines = shown.splitlines()
        assert all(any(line.startswith(name) for line in lines) for name in names), shown
        assert "…" not in shown
        assert command != "models" or lines[0].split()[-1] == "LOCAL"
    os.close(ours)
    os.close(theirs)


def test_a_narrow_terminal_shows_every_fact_of_a_model(home: Path) -> None:
    put_by_hand(home, "own")
    ours, theirs = pty.openpty()
    environ = {**os.environ, "HEADRACE_HOME": str(home), "COLUMNS": "40", "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "headrace", "models"],
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=environ,
    ) as process:
        shown = ""
        while process.poll() is None or select.select([ours], [], [], 0.05)[0]:
            if select.select([ours], [], [], 0.05)[0]:
                shown += os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    lines = shown.splitlines()
    assert "…" not in shown
    assert max(map(len, lines)) <= 40
    assert lines[0] == "qwen2.5-coder:0.5b (default)"
    assert "  context 32768" in lines and "  not local" in lines
    assert lines[-3:] == ["own", "  1004 B", "  local"]


def test_a_base_model_is_refused_before_it_is_fetched(home: Path) -> None:
    result = headrace(home, "chat", "--model", "gemma3:270m")
    assert result.returncode == 2
    assert result.stderr.startswith("error: --model is 'gemma3:270m'; allowed: a model with a chat")
    assert not home.exists()


def test_pulls_a_file_and_a_folder_from_the_hub(home: Path) -> None:
    """All the way: huggingface_hub asks a server on this machine, the bytes come over https.py."""
    with open_site() as site:
        for repo, names in (("o/gguf", ["a.gguf"]), ("o/st", ["config.json", "x.safetensors"])):
            lfs = {"sha256": sha256(CONTENT), "size": len(CONTENT), "pointerSize": 1}
            siblings = [{"rfilename": n, "size": len(CONTENT), "lfs": lfs} for n in names]
            site.hub[repo] = {"id": repo, "sha": "c0ffee", "siblings": siblings}
        file = headrace(home, "pull", "o/gguf/a.gguf", HF_ENDPOINT=site.url)
        folder = headrace(home, "pull", "o/st", HF_ENDPOINT=site.url)
        missing = headrace(home, "pull", "o/none", HF_ENDPOINT=site.url)
    assert file.returncode == 0, file.stderr
    assert Path(file.stdout.split(": ")[1].strip()).read_bytes() == CONTENT
    assert folder.returncode == 0, folder.stderr
    assert (Path(folder.stdout.split(": ")[1].strip()) / "x.safetensors").read_bytes() == CONTENT
    assert "/o/gguf/resolve/c0ffee/a.gguf" in site.paths
    assert missing.returncode == 1
    assert "o/none is not there, or is private" in missing.stderr


def test_rm_needs_a_yes(home: Path) -> None:
    path = put_by_hand(home, "own")
    refused = headrace(home, "rm", "own")
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: own was not removed: there is no terminal to ask on. Give --yes to remove it.\n"
    )
    assert path.exists()
    removed = headrace(home, "rm", "own", "--yes")
    assert removed.returncode == 0
    assert removed.stdout == "own removed, 1004 B freed\n"
    assert not path.exists()


def test_rm_takes_the_tokenizer_along(home: Path) -> None:
    """The model's own; a file of another key stays."""
    path = put_by_hand(home, "own")
    path.write_bytes(GgufFile().to_bytes())
    key, folder = GgufReader(path).metadata_digest(), home / "tokenizers"
    folder.mkdir()
    kept = [cache_path(folder, key), cache_path(folder, key, "vocabulary")]
    other = cache_path(folder, "other")
    for file in (*kept, other):
        file.write_bytes(bytes(100))
    size = path.stat().st_size + 200
    assert headrace(home, "rm", "own", "--yes").stdout == f"own removed, {size} B freed\n"
    assert [file.exists() for file in (path, *kept, other)] == [False, False, False, True]


def test_a_reader_that_leaves_early_is_no_error(home: Path) -> None:
    command = f"{sys.executable} -m headrace models --json | true"
    environ = {**os.environ, "HEADRACE_HOME": str(home)}
    shell = ["bash", "-o", "pipefail", "-c", command]
    result = subprocess.run(shell, capture_output=True, text=True, env=environ, check=False)
    assert "Traceback" not in result.stderr and "Exception" not in result.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("place", "text"),
    [
        (">&-", "error: stdout is closed. Send it to a file, a program or a terminal, "),
        (">/dev/full", "error: stdout cannot be written: no space left where it goes. Send"),
    ],
)
def test_output_that_cannot_be_written_is_an_error_of_stdout(
    place: str, text: str, unbuffered: str, home: Path
) -> None:
    for arguments in ("--help", "models"):
        command = f"{sys.executable} -m headrace {arguments} {place}"
        environ = {**os.environ, "HEADRACE_HOME": str(home), "PYTHONUNBUFFERED": unbuffered}
        shell = ["bash", "-c", command]
        result = subprocess.run(shell, capture_output=True, text=True, env=environ, check=False)
        assert result.returncode == 1
        assert result.stderr.startswith(text)
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "code"), [("models", 0), ("nope", 2)])
def test_a_closed_stderr_is_no_error(arguments: str, code: int, home: Path) -> None:
    shell = ["bash", "-c", f"{sys.executable} -m headrace {arguments} <&- 2>&-"]
    environ = {**os.environ, "HEADRACE_HOME": str(home)}
    result = subprocess.run(shell, stdout=subprocess.PIPE, text=True, env=environ, check=False)
    assert result.returncode == code
    assert ("NAME" in result.stdout) == (code == 0)
