"""A minute of the soak against the real server, and that its checks see what they are for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from programs import environment

ENGINE = Path(__file__).parents[2] / "benchmarks" / "engine"
sys.path.insert(0, str(ENGINE))

from soak import SHORT_S, Findings, Sample, checks  # noqa: E402
from soak_traffic import KINDS, Answer, Ask, Traffic, faults  # noqa: E402

TEXT = "/v1/completions"
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.timeout(1000)  # a minute is the load, the rest a slow machine's warm-up
def test_a_minute_of_mixed_traffic_leaves_nothing_behind(qwen05_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ENGINE / "soak.py"), "--minutes", "1", "--model", str(qwen05_path)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert all(check["is_kept"] for check in record["checks"])
    assert len(record["sent"]) == len(KINDS)
    # A soak that preempts nothing, shares nothing and answers little has proved little.
    assert record["counters"]["num_preemptions"] > 0
    assert record["counters"]["prefix_cache_hits"] > 0
    assert record["counters"]["generation_tokens"] > 500


def steady(index: int, **more: float) -> Sample:
    fields = {"memory_mib": 500 + index % 3, "num_threads": 9, "num_files": 20}
    return Sample(at_s=10.0 * index, **fields | more)


def broken(samples: list[Sample], found: Findings, seconds: float = 1000) -> set[str]:
    return {check.name for check in checks(found, samples, seconds) if not check.is_kept}


def answered() -> Findings:
    return Findings(ttft=[(float(second), 0.5) for second in range(1000)])


def test_a_steady_run_keeps_every_check() -> None:
    assert broken([steady(index) for index in range(100)], answered()) == set()


def test_a_leak_a_drift_and_threads_are_seen() -> None:
    leaking = [steady(index, memory_mib=500 + 0.4 * index) for index in range(100)]
    assert broken(leaking, answered()) == {"memory growth, MiB"}
    threads = [steady(index, num_threads=9 + index) for index in range(100)]
    assert broken(threads, answered()) == {"new threads"}
    slower = Findings(ttft=[(float(second), 0.1 + second // 700) for second in range(1000)])
    samples = [steady(index) for index in range(100)]
    assert broken(samples, slower) == {"TTFT, last third / first"}
    assert broken(samples, slower, SHORT_S - 1) == set()


def test_a_failure_of_any_kind_is_seen() -> None:
    for name in ("5xx", "hang", "broken", "wrong", "other text"):
        found = answered()
        found.fail(name, "example")
        assert broken([steady(index) for index in range(100)], found) == {f"failures: {name}"}


def answer(
    text: str = "a b", reason: str = "stop", tokens: int = 2, is_done: bool = True
) -> Answer:
    usage = {"completion_tokens": tokens}
    return Answer(200, {0: text}, {0: [reason]}, usage, is_done=is_done)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (answer(), None),
        (answer("a. b"), "the stop text"),
        (answer(reason="error"), "finish reasons"),
        (answer(is_done=False), "without [DONE]"),
        (answer(tokens=9), "9 output tokens"),
        (answer(tokens=0), "0 output tokens"),
        (Answer(500, error={"message": "a fault of ours"}), "status 500"),
        (Answer(200, error={"message": "died"}), "inside the stream"),
        (Answer(200, is_done=True), "choices []"),
    ],
)
def test_a_wrong_answer_is_seen(given: Answer, fault: str | None) -> None:
    body = {"prompt": "x", "max_tokens": 4, "stop": ["."], "stream": True}
    found = faults(Ask("stop", TEXT, body), given)
    assert found is None if fault is None else fault in str(found)


def test_an_error_body_lacks_nothing() -> None:
    ask = Ask("invalid", TEXT, b"{", status=400)
    whole = {"message": "m", "type": "t", "param": None, "code": None}
    assert faults(ask, Answer(400, error=whole)) is None
    assert "without its fields" in str(faults(ask, Answer(400, error={"message": "m"})))
    assert "in place of 400" in str(faults(ask, answer()))


def test_the_traffic_is_of_every_kind_and_repeats_with_its_seed() -> None:
    first, again = Traffic("m", 3), Traffic("m", 3)
    asks = [first.next() for _ in range(400)]
    assert asks == [again.next() for _ in range(400)]
    assert len({ask.kind for ask in asks}) == len(KINDS)
    assert {ask.is_stream for ask in asks} == {True, False}
