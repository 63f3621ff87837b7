"""Comparisons of answers: what is picked, what is recorded, and that nobody waits for them."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.fake_clock import FakeClock
from fakes.running_engine import Recorder
from fakes.upstreams import ask
from headrace.core.errors import CapacityError, ConfigError
from headrace.core.message import Tool
from headrace.core.output import CompletionDelta, RequestOutput
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.routing import Route, RouteAttempt
from headrace.core.routing_options import ShadowConfig
from headrace.core.usage import Usage
from headrace.router.agreement import agreement
from headrace.router.shadow import ShadowAnswer, Shadows
from headrace.router.shadow_log import ShadowFiles, read_records
from headrace.router.shadow_summary import mean_interval, summarize


def answer(text: str) -> RequestOutput:
    return RequestOutput(
        "r", (CompletionDelta(0, text, finish_reason="stop"),), Usage(7, output_tokens=3), True
    )


def route(tier: str) -> Route:
    attempt = RouteAttempt(tier, f"far/{tier}", tier, "far", "answered", Usage(7, output_tokens=3))
    return Route(tier, "default", "write", attempts=(attempt,))


class Kept(list[Mapping[str, Any]]):
    async def add(self, record: Mapping[str, Any]) -> None:
        self.append(record)


def shadows(log: Kept, text: str = "a b c", chance: float = 0.0, **settings: Any) -> Shadows:
    async def other(request: GenerateRequest) -> ShadowAnswer:
        assert request.model == "auto:premium"
        return ShadowAnswer(answer(text), route("premium"), 90_000)

    config = ShadowConfig(use="premium", **settings)
    return Shadows(config, other, log, FakeClock(), Recorder(), lambda: chance)


async def finished(found: Shadows) -> None:
    async with asyncio.timeout(60):
        while found.num_running:
            await asyncio.sleep(0)


async def test_what_is_recorded_has_no_text_unless_that_is_wanted() -> None:
    log = Kept()
    found = shadows(log)
    found.compare(ask("SECRET question"), route("cheap"), [answer("a b d")], 0.5)
    await finished(found)
    (record,) = log
    assert record["agreement"] == pytest.approx(2 / 3, abs=1e-6)
    assert (record["tier"], record["other_tier"], record["task"]) == ("cheap", "premium", "write")
    assert (record["other_cost_nano_usd"], record["other_backend"]) == (90_000, "far/premium")
    assert (record["duration_s"], record["error"]) == (0.5, None)
    assert record["features"]["num_questions"] == 0
    shown = json.dumps(record)
    assert "SECRET" not in shown
    assert "a b" not in shown
    found = shadows(log, keeps_texts=True)
    found.compare(ask("SECRET question"), route("cheap"), [answer("a b d")], 0.5)
    await finished(found)
    assert log[1]["messages"] == [{"role": "user", "content": "SECRET question"}]
    assert (log[1]["text"], log[1]["other_text"]) == ("a b d", "a b c")


def test_what_is_picked() -> None:
    log = Kept()
    assert shadows(log, chance=0.04).pick(ask())
    assert not shadows(log, chance=0.05).pick(ask())
    all_of_it = shadows(log, share=1.0)
    assert not all_of_it.pick(ask(tools=(Tool("f"),)))
    assert not all_of_it.pick(ask(is_background=True))
    assert not all_of_it.pick(ask(sampling=SamplingParams(n=2)))
    some = shadows(log, tasks=("write",))
    assert some.pick(ask(task="write"))
    assert some.pick(ask(model="auto/write"))
    assert not some.pick(ask(task="other"))
    assert not some.pick(ask())


async def test_what_is_not_compared() -> None:
    log = Kept()
    found = shadows(log, of=("cheap",))
    unfinished = replace(answer("x"), is_finished=False)
    found.compare(ask(), route("cheap"), [unfinished], 0.1)
    found.compare(ask(), route("cheap"), [], 0.1)
    found.compare(ask(), route("premium"), [answer("x")], 0.1)
    found.compare(ask(), route("middle"), [answer("x")], 0.1)
    assert found.num_running == 0


async def test_no_more_at_a_time_than_may_be_and_closing_ends_them() -> None:
    log, gate = Kept(), asyncio.Event()

    async def other(request: GenerateRequest) -> ShadowAnswer:
        await gate.wait()
        raise CapacityError("full")

    config = ShadowConfig(use="premium", max_running=2)
    metrics = Recorder()
    found = Shadows(config, other, log, FakeClock(), metrics, lambda: 0.0)
    for _ in range(3):
        found.compare(ask(), route("cheap"), [answer("x")], 0.1)
    assert found.num_running == 2
    gate.set()
    await finished(found)
    assert [(record["error"], record["agreement"]) for record in log] == [
        ("CapacityError", None)
    ] * 2
    gate.clear()
    found.compare(ask(), route("cheap"), [answer("x")], 0.1)
    await asyncio.sleep(0)
    found.close()
    await finished(found)
    assert len(log) == 2


@pytest.mark.parametrize(
    ("metric", "one", "other", "expected"),
    [
        ("exact", "Yes", " yes\n", 1.0),
        ("exact", "yes", "yes.", 0.0),
        ("exact", '{"a": 1, "b": [2]}', '{"b":[2],"a":1}', 1.0),
        ("exact", '{"a": 1}', '{"a": true}', 0.0),
        ("exact", "[" * 100_000, "[" * 99_999, 0.0),
        ("words", "The cat sat.", "the CAT stood", 2 / 3),
        ("words", "", "", 1.0),
        ("words", "a", "", 0.0),
        ("words", "a a", "a", 2 / 3),
    ],
)
def test_agreement(metric: Any, one: str, other: str, expected: float) -> None:
    assert agreement(one, other, metric) == pytest.approx(expected)


def written(path: Path) -> list[Mapping[str, Any]]:
    return [record for _, record in read_records([path])]


async def test_files_end_with_their_time_and_have_a_bound(tmp_path: Path) -> None:
    clock = FakeClock(86_400.0 * 100)
    files = ShadowFiles(tmp_path / "shadow", 2, 100, clock)
    await files.add({"day": 1})
    clock.advance(86_400)
    await files.add({"day": 2, "text": "ü"})
    await files.add({"too": "much " * 100})
    assert written(tmp_path / "shadow") == [{"day": 1}, {"day": 2, "text": "ü"}]
    clock.advance(86_400)
    await files.add({"day": 3})
    assert [record["day"] for record in written(tmp_path / "shadow")] == [2, 3]
    paths = sorted((tmp_path / "shadow").iterdir())
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o600] * 2


async def test_a_folder_that_cannot_be_written_is_told_and_harmless(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    files = ShadowFiles(tmp_path / "file", 2, 100, FakeClock())
    await files.add({})
    await files.add({})
    assert len(caplog.records) == 1


def test_half_a_line_at_the_end_is_read_over_and_one_before_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a":')
    assert list(read_records([path])) == [(f"{path}:1", {"a": 1})]
    path.write_text('{"a": 1')  # and no record before it
    with pytest.raises(ConfigError, match=r"a\.jsonl:1"):
        list(read_records([path]))
    path.write_text('{"a": \n{"a": 1}\n')
    with pytest.raises(ConfigError, match=r"a\.jsonl:1"):
        list(read_records([path]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"label,prompt\n1,x\n", r"a\.jsonl:1 is 'label,prompt'; allowed: a JSON object on each"),
        (b'[{"a": 1}]\n', r"a\.jsonl:1 is "),
        (b"GGUF\x03\x00\xff\xfe\n", "FILE is .*a file of JSON lines, which is UTF-8"),
    ],
)
def test_a_file_of_something_else_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        list(read_records([path]))
    with pytest.raises(ConfigError, match=r"none.*No such file or directory\."):
        list(read_records([tmp_path / "none"]))
    path.unlink()
    with pytest.raises(ConfigError, match=r"a folder with files that end with \.jsonl"):
        list(read_records([tmp_path]))


def test_a_summary_adds_up_by_task_and_tiers() -> None:
    record = {
        "task": None,
        "tier": "cheap",
        "other_tier": "premium",
        "metric": "words",
        "agreement": 0.5,
        "num_chars": 10,
        "other_num_chars": 20,
        "duration_s": 1.0,
        "other_duration_s": 3.0,
        "other_cost_nano_usd": 5,
    }
    failed = {**record, "agreement": None}
    records = [record, {**record, "agreement": 1.0}, failed, {**record, "task": "t"}]
    one, two = summarize(("file:1", each) for each in records)
    assert (one.task, one.num_compared, one.num_failed) == (None, 2, 1)
    assert (one.agreement, one.full_agreement, one.length_ratio) == (0.75, 0.5, 2.0)
    assert (one.mean_s, one.other_mean_s, one.other_nano_usd) == (1.0, 3.0, 10)
    assert (two.task, two.num_compared, two.agreement_95) == ("t", 1, None)
    unpriced = {**record, "other_cost_nano_usd": None}
    assert summarize([("file:1", unpriced)])[0].other_nano_usd is None
    for name, value in (("agreement", "much"), ("agreement", 2), ("duration_s", None)):
        with pytest.raises(ConfigError, match=f"{name} of file:1"):
            summarize([("file:1", {**record, name: value})])
    # Of few the spread is an estimate too: Student's 12.7 and 2.26 in place of 1.96.
    assert mean_interval([0.50, 0.51]) == pytest.approx((0.505 - 0.0635, 0.505 + 0.0635), abs=2e-4)
    low, high = mean_interval([0.4, 0.6] * 5) or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(2.262 * 0.10541 / 10**0.5, rel=2e-3)
    low, high = mean_interval([0.4, 0.6] * 500) or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(1.962 * 0.10005 / 1000**0.5, rel=2e-3)
    # All the same is not certainty.
    assert mean_interval([1.0] * 10) == (pytest.approx(1 - 0.3689, abs=1e-4), 1.0)


async def test_what_a_full_disk_cut_off_does_not_spoil_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = ShadowFiles(tmp_path, 2, 10_000, FakeClock())
    await files.add({"a": 1})
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:4]))
    await files.add({"a": 2})
    monkeypatch.undo()
    assert [record.getMessage().split(" ", 3)[3] for record in caplog.records] == [
        f"in {tmp_path} cannot be written: No space left on device"
    ]
    await files.add({"a": 3})
    assert written(tmp_path) == [{"a": 1}, {"a": 3}]
    # Nor does what the end of a machine cut off.
    (path,) = tmp_path.iterdir()
    with path.open("a") as file:
        file.write('{"a": 4')
    await ShadowFiles(tmp_path, 2, 10_000, FakeClock()).add({"a": 5})
    assert written(tmp_path) == [{"a": 1}, {"a": 3}, {"a": 5}]
