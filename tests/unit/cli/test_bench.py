"""`headrace bench`: wrong flags, its default, its progress, and what a run leaves."""

# ruff: noqa: E501
# Messages stand on one line, as a person reads them.

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.progress import TimeElapsedColumn

from fakes.completion_server import (
    CompletionServer,
    Exchange,
    Script,
    answer,
    completion_server,
    dump,
)
from headrace.bench.outcome import Failure, Outcome
from headrace.cli.bench_progress import LoadView
from headrace.cli.main import main
from headrace.cli.progress_views import CountBar, CountLines

TINY = ("--num-requests", "6", "--prompt-tokens", "20..40", "--output-tokens", "1..3")
LENGTHS = (
    "a number of tokens (128), a range (32..512, every length as likely), or a logarithmic range "
    "(log:32..2048, every doubling as likely)"
)


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Commands direct the log to stderr, which pytest replaces after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@contextmanager
def served(script: Script = answer) -> Iterator[CompletionServer]:
    """A server in a thread of its own: a command runs its own event loop."""
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    found: list[CompletionServer] = []

    async def serve() -> None:
        async with completion_server(script) as server:
            found.append(server)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()


def bench(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("latency", "--num-requests", "100000000000"), "--num-requests is 100000000000; allowed: 1 to 100000. All are drawn before the first is made; run it again with another --seed for more."),
        (("serve", "--rate", "0"), "--rate is 0.0; allowed: more than 0 requests per second, at most 100000."),
        (("serve", "--rate", "nan"), "--rate is nan; allowed: more than 0 requests per second, at most 100000."),
        (("serve", "--timeout", "5"), "--timeout is '5'; allowed: a number with a unit among us, ms, s, min, h, such as 500ms or 1.5s."),
        (("serve", "--timeout", "0s"), "--timeout is '0s'; allowed: more than 0, such as 90s or 5min."),
        (("serve", "--slo", "ttft=500"), "--slo ttft is '500'; allowed: a number with a unit among us, ms, s, min, h, such as 500ms or 1.5s."),
        (("serve", "--slo", "speed=1s"), "--slo is 'speed=1s'; allowed: limits such as ttft=500ms,tpot=50ms, of ttft, tpot, itl, e2e, each once. The part 'speed=1s' is none of them."),
        (("serve", "--prompt-tokens", "9..3"), f"--prompt-tokens is '9..3'; allowed: {LENGTHS}. 3 is less than 9; swap them."),
        (("latency", "--output-tokens", "all"), f"--output-tokens is 'all'; allowed: {LENGTHS}."),
        (("serve", "--prompts", "/none.jsonl"), "--prompts is '/none.jsonl'; allowed: a readable JSONL file. No such file or directory."),
        (("serve", "--url", "localhost"), "--url is 'localhost'; allowed: an http or https address such as http://127.0.0.1:8000/v1."),
        (("serve", "--body", "[1]"), "--body is '[1]'; allowed: a JSON object."),
        (("serve", "--body", '{"n": 2}'), "--body is '{\"n\": 2}'; allowed: fields other than these. n cannot change: one stream with usage is what is measured."),
        (("serve", "--body", '{"a": 1, "a": 2}'), "--body is '{\"a\": 1, \"a\": 2}'; allowed: a JSON object. \"a\" is given twice; give it once."),
        (("latency", "--repeat-prompts"), "--repeat-prompts is 'on'; allowed: nothing without --url. Add --url, or leave it out."),
        (("serve", "--api", "BAD"), "--api is 'BAD'; allowed: chat, completions."),
        (("serve", "--api-key-env", "NO_SUCH_KEY"), "--api-key-env is 'NO_SUCH_KEY'; allowed: a variable that holds a key. Set the variable before the command runs."),
        (("serve", "--save-html", "/none/x.html"), "--save-html is '/none/x.html'; allowed: a file in a folder that exists. There is no folder /none; make it first."),
        (("latency", "--api", "completions"), "--api is 'completions'; allowed: nothing without --url. Add --url, or leave it out."),
        (("throughput", "--body", "{}"), "--body is '{}'; allowed: nothing without --url. Add --url, or leave it out."),
        (("latency", "--url", "http://h", "--threads", "2"), "--threads is 2; allowed: nothing with --url. Set it where the server is started."),
        (("latency", "--url", "http://h", "--isa", "amx"), "--isa is 'amx'; allowed: nothing with --url. Set it where the server is started."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_wrong_flags(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*arguments) == 2
    shown = capsys.readouterr()
    assert (shown.err, shown.out) == (f"error: {message}\n", "")


def test_without_a_measurement_it_is_the_roof(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("nonsense",), ("roof", "nonsense"), ("--rounds", "1", "nonsense")):
        assert bench(*arguments) == 1
        assert "The model 'nonsense' does not exist here" in capsys.readouterr().err
    assert bench("--help") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("roof", "latency", "throughput", "serve"))


@pytest.mark.parametrize("mode", ["latency", "throughput", "serve"])
def test_a_server_is_measured(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ("--rate", "200") if mode == "serve" else ()
    save = ("--save-json", str(tmp_path / "r.json"), "--save-html", str(tmp_path / "r.html"))
    with served() as server:
        code = bench(mode, "--url", server.url, *TINY, *rate, *save, "--slo", "e2e=20s", "--json")
    shown = capsys.readouterr()
    assert code == 0, shown.err
    report = json.loads(shown.out)
    assert report == json.loads((tmp_path / "r.json").read_text())
    assert (report["settings"]["mode"], report["target"]["model"]) == (mode, "tiny")
    assert report["target"]["tokens_per_word"] == 1.0
    assert report["requests"]["finished"] == 6
    assert report["goodput"]["share"] == 1.0
    # The lengths that were asked for arrived: the calibration is right to the token.
    loads = [exchange for exchange in server.seen if exchange.path.endswith("/completions")][2:]
    assert sorted(exchange.num_prompt_tokens for exchange in loads) == sorted(
        sample["input_tokens"] for sample in report["samples"]
    )
    assert all(20 <= sample["input_tokens"] <= 40 for sample in report["samples"])
    assert report["tokens"]["output"] == sum(exchange.body["max_tokens"] for exchange in loads)
    assert "6 of 6 requests" in shown.err
    assert "<svg" in (tmp_path / "r.html").read_text()


def test_a_seed_makes_the_same_load(capsys: pytest.CaptureFixture[str]) -> None:
    bodies = []
    for seed in ("1", "1", "2"):
        with served() as server:
            ask = ("serve", "--url", server.url, *TINY, "--rate", "500", "--repeat-prompts")
            assert bench(*ask, "--seed", seed) == 0
        chats = [exchange.body for exchange in server.seen if exchange.body]
        bodies.append(sorted(json.dumps(body) for body in chats))
    assert bodies[0] == bodies[1] != bodies[2]


def test_failures_are_shown_and_the_exit_code_is_for_none_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    requests = iter(range(100))

    async def breaks_down(exchange: Exchange) -> None:
        # Two calibrating requests and two of the load are answered.
        if next(requests) < 4:
            await answer(exchange)
        else:
            await exchange.reply(
                "500 Internal Server Error", b'{"error": {"message": "no [room]"}}'
            )

    with served(breaks_down) as server:
        assert bench("throughput", "--url", server.url, *TINY, "--concurrency", "1") == 0
    shown = capsys.readouterr()
    assert "2 of 6 finished" in shown.out
    assert "failed: http_500" in shown.out and "4 (no [room])" in shown.out
    assert "failed: http_500: no [room]\n" in shown.err
    assert "note: 4 of 6 requests failed; latencies are those of the rest" in shown.err

    requests = iter([0, 1, *[9] * 100])
    with served(breaks_down) as server:
        assert bench("latency", "--url", server.url, *TINY) == 1
    assert "0 of 6 finished" in capsys.readouterr().out


def test_prompts_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "one two"}\n{"prompt": "three", "max_tokens": 5}\n')
    with served() as server:
        ask = ("latency", "tiny", "--url", server.url, "--prompts", str(path))
        assert bench(*ask, "--num-requests", "3", "--output-tokens", "2") == 0
        asked = [(e.body["messages"][0]["content"], e.body["max_tokens"]) for e in server.seen[1:]]
        assert asked == [("one two", 2), ("three", 5), ("one two", 2)]
        capsys.readouterr()
        assert bench(*ask, "--prompt-tokens", "5") == 2
        assert "nothing with --prompts" in capsys.readouterr().err
        path.write_text('{"messages": [{"role": "user", "content": "hi"}]}')
        assert bench(*ask, "--api", "completions") == 2
        assert "--api is 'completions'; allowed: chat" in capsys.readouterr().err


async def refuses(exchange: Exchange) -> None:
    await exchange.reply("400 Bad Request", b'{"error": {"message": "Unknown field ignore_eos."}}')


def test_a_server_that_refuses_is_known_before_the_load(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with served(refuses) as server:
        assert bench("serve", "--url", server.url) == 1
        assert capsys.readouterr().err.startswith(
            f"error: {server.url} failed the request before the load (http_400): Unknown field "
            "ignore_eos. A strict server may refuse ignore_eos (--no-ignore-eos)"
        )
        server.models = ("a", "b")
        assert bench("serve", "--url", server.url) == 2
        shown = f"error: MODEL is not given; allowed: one of those served at {server.url}: a, b.\n"
        assert capsys.readouterr().err == shown
    assert bench("serve", "--url", server.url) == 1
    assert "Start the server, or give its address with --url." in capsys.readouterr().err


def refusing(status: str, code: str, message: str) -> Script:
    async def refuse(exchange: Exchange) -> None:
        await exchange.reply(status, dump({"error": {"message": message, "code": code}}))

    return refuse


def test_a_model_that_a_server_does_not_have_is_told_which_it_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with served(refusing("404 Not Found", "model_not_found", "No.")) as server:
        server.models = ("a", "b")
        assert bench("serve", "c", "--url", server.url) == 2
        shown = f"error: MODEL is 'c'; allowed: one of those served at {server.url}: a, b.\n"
        assert capsys.readouterr().err == shown
        # What it has and does not answer with: another route, another path.
        assert bench("serve", "a", "--url", server.url) == 1
        assert "(http_404): No. See that --url ends" in capsys.readouterr().err


def test_an_encoder_is_told_what_measures_it(capsys: pytest.CaptureFixture[str]) -> None:
    said = "m makes vectors of texts and does nothing else."
    with served(refusing("400 Bad Request", "model_not_supported", said)) as server:
        assert bench("serve", "--url", server.url) == 1
    assert f"{said} A load is made of answers, so it needs a language model; `headrace embed" in (
        capsys.readouterr().err
    )


def test_a_key_is_sent_and_not_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with served() as server:
        assert (
            bench("latency", "--url", server.url, *TINY, "--api-key-env", "MY_KEY", "--json") == 0
        )
    assert {e.headers["authorization"] for e in server.seen} == {"Bearer sk-secret"}
    shown = capsys.readouterr()
    assert "sk-secret" not in shown.out + shown.err


def ended(index: int, failure: Failure | None = None) -> Outcome:
    return Outcome(
        index=index, scheduled_s=0.0, sent_s=0.0, end_s=1.0, event_s=(), asked_output_tokens=1,
        failure=failure,
    )  # fmt: skip


def test_lines_come_at_tenths_and_for_new_kinds_of_failure() -> None:
    lines: list[str] = []
    with CountLines(40, "requests", lines.append, lambda: 0.0) as counts:
        view = LoadView(counts)
        for index in range(40):
            view.show(ended(index, Failure("timeout", "late") if index in (5, 6) else None))
    assert lines[:3] == ["4 of 40 requests", "failed: timeout: late", "8 of 40 requests, 2 failed"]
    assert len(lines) == 11 and lines[-1] == "40 of 40 requests, 2 failed"


def test_a_bar_counts_failures() -> None:
    with CountBar(3, "requests", TimeElapsedColumn()) as bar:
        view = LoadView(bar)
        view.show(ended(0))
        view.show(ended(1, Failure("timeout", "late")))
        (task,) = bar._progress.tasks
        assert (task.completed, task.total, task.description) == (2, 3, "requests, 1 failed")
