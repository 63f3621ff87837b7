"""Answers as `run` shows them: prompts, templates, streams, summaries."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from fakes.fake_backend import FakeBackend
from headrace.cli.answer import Answer, make_request, read_answer, summarize
from headrace.cli.generation import check_max_tokens
from headrace.cli.run_answer import RunOptions, plan_request, show_answer
from headrace.core.errors import ConfigError
from headrace.core.request import SamplingParams
from headrace.core.usage import Usage

GREEDY = SamplingParams(temperature=0)


def test_max_tokens() -> None:
    check_max_tokens(1)
    check_max_tokens(None)
    with pytest.raises(ConfigError, match="--max-tokens is 0; allowed: 1 or more"):
        check_max_tokens(0)


def test_a_chat_model_gets_messages() -> None:
    backend = FakeBackend()
    options = RunOptions("hi", system="be brief")
    request = plan_request(backend, GREEDY, 7, options, has_template=True)
    assert [(m.role, m.content) for m in request.messages or ()] == [
        ("system", "be brief"),
        ("user", "hi"),
    ]
    assert request.prompt is None
    assert request.default_max_tokens == 7
    assert request.add_special_tokens is False


def test_a_model_without_template_continues_the_prompt_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = plan_request(FakeBackend(), GREEDY, 7, RunOptions("hi"), has_template=False)
    assert (request.prompt, request.messages) == ("hi", None)
    assert request.add_special_tokens is True
    note = capsys.readouterr().err
    assert "it does not answer, it continues the prompt as plain text, for at most 7 tokens" in note
    plan_request(FakeBackend(), GREEDY, 7, RunOptions("hi", is_raw=True), has_template=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_raw", [True, False])
def test_a_model_without_template_has_a_shorter_default(is_raw: bool) -> None:
    options = RunOptions("hi", is_raw=is_raw)
    request = plan_request(FakeBackend(), GREEDY, 1024, options, has_template=False)
    assert request.default_max_tokens == 128
    given = replace(GREEDY, max_tokens=500)
    request = plan_request(FakeBackend(), given, 1024, options, has_template=False)
    assert request.sampling.max_tokens == 500


def test_raw_text_of_a_chat_model_has_the_usual_default() -> None:
    options = RunOptions("hi", is_raw=True)
    request = plan_request(FakeBackend(), GREEDY, 1024, options, has_template=True)
    assert request.default_max_tokens == 1024


@pytest.mark.parametrize(("is_raw", "has_template"), [(True, True), (False, False)])
def test_a_system_message_needs_a_template(is_raw: bool, has_template: bool) -> None:
    options = RunOptions("hi", system="x", is_raw=is_raw)
    with pytest.raises(ConfigError, match="--system"):
        plan_request(FakeBackend(), GREEDY, 7, options, has_template=has_template)


async def test_text_goes_to_stdout_and_the_summary_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend = FakeBackend()
    request = make_request(backend, GREEDY, prompt="abc")
    await show_answer(backend, request, RunOptions("abc"))
    shown = capsys.readouterr()
    assert shown.out == "Hello, wörld 🌊!\n"
    assert shown.err.startswith("3 prompt tokens, 5 generated, first token after 0.")
    assert shown.err.count("\n") == 1


async def test_quiet_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    backend = FakeBackend()
    request = make_request(backend, GREEDY, prompt="abc", default_max_tokens=2)
    await show_answer(backend, request, RunOptions("abc", is_quiet=True, is_json=True))
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["text"] == "Hello,"
    assert result["finish_reason"] == "length"
    assert (result["input_tokens"], result["output_tokens"]) == (3, 2)
    assert result["ttft_s"] <= result["total_s"]
    assert shown.err == ""


async def test_a_broken_answer_still_ends_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail(_: object, step: int) -> None:
        if step == 1:
            raise KeyboardInterrupt

    backend = FakeBackend(before_step=fail)
    with pytest.raises(KeyboardInterrupt):
        await show_answer(backend, make_request(backend, GREEDY, prompt="a"), RunOptions("a"))
    assert capsys.readouterr().out == "Hello\n"
    assert backend.num_running == 0


async def test_read_answer_keeps_what_came() -> None:
    backend, answer, shown = FakeBackend(num_cached_tokens=2), Answer(), []
    await read_answer(backend, make_request(backend, GREEDY, prompt="abc"), answer, shown.append)
    assert shown == ["Hello", ",", " wörld", " 🌊!"]
    assert answer.text == "".join(shown)
    assert answer.usage == Usage(3, 2, 5)
    assert answer.finish_reason == "stop"


def test_summaries() -> None:
    done = Answer("x", Usage(40, 32, 21), "length", ttft_s=0.5, total_s=1.5)
    assert summarize(done) == (
        "40 prompt tokens (32 cached), 21 generated, first token after 0.50 s, 20.0 tokens/s, "
        "cut at the length limit"
    )
    # Few tokens have a speed that says little.
    few = Answer("x", Usage(40, 0, 8), "stop", ttft_s=0.5, total_s=0.7)
    assert summarize(few) == (
        "40 prompt tokens, 8 generated, first token after 0.50 s, 35.0 tokens/s over 7"
    )
    one = Answer("x", Usage(40, 0, 1), "length", ttft_s=0.5, total_s=0.5)
    assert summarize(one) == (
        "40 prompt tokens, 1 generated, first token after 0.50 s, cut at the length limit"
    )
    assert summarize(Answer("", Usage(4))) == "4 prompt tokens, 0 generated"
    assert Answer("x", Usage(4, 0, 1), "stop", 0.5, 0.5).tokens_per_s is None


def test_weights_are_on_their_way_before_the_rest_is_imported() -> None:
    later = ("asyncio", "jinja2", "tokenizers", "yaml", "headrace.sched", "headrace.text")
    code = (
        "import sys, headrace.cli.run, headrace.ops.cpu.cpu_ops; "
        f"print([name for name in {later} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_run_imports_no_server() -> None:
    heavy = ("starlette", "fastapi", "uvicorn", "pydantic", "rich.progress")
    code = (
        "import sys, headrace.cli.run, headrace.cli.chat; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
