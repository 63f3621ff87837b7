"""What explains a speed: the arithmetic of the roof by hand, and a run over scripted engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest

from fakes.fake_backend import FakeBackend
from fakes.fake_clock import FakeClock
from fakes.one_seat import OneSeat
from headrace.bench.explain import Case, Explanation, Opened, Variant, conclusions, explain
from headrace.bench.explain_plan import plan_explain
from headrace.bench.roofline import Load, Point, Sweep, factors, middle, spread
from headrace.bench.time_limit import TimeLimit
from headrace.core.backend import ModelInfo
from headrace.core.config import Config, EngineConfig
from headrace.core.machine import Roof
from headrace.core.request import GenerateRequest
from headrace.engine.build import WorkPerToken

# 10 GB/s and 1 TOP/s; a token reads 300 MB and multiplies 500 million weights.
ROOF = Roof(read_bytes_per_s=10e9, int8_ops_per_s=1e12)
WORK = WorkPerToken(stream_bytes=300_000_000, body_weights=400_000_000, head_weights=100_000_000)


def point(name: str, rows: int, step_s: float, heads: int | None = None, kv: float = 0.0) -> Point:
    load = Load(
        num_streams=rows,
        num_rows=rows,
        num_heads=rows if heads is None else heads,
        context_tokens=50,
        kv_bytes=kv,
    )
    return Point(
        name=name, load=load, step_s=step_s, tokens_per_s=rows / step_s, roof=ROOF, work=WORK
    )


def test_one_stream_waits_for_memory_and_a_prompt_for_multiplying() -> None:
    one = point("one", 1, 0.040, kv=20e6)
    assert one.memory_s == pytest.approx(0.032)
    assert one.arithmetic_s == pytest.approx(0.001)
    assert (one.bound, one.share) == ("memory", pytest.approx(0.8))
    prompt = point("prompt", 500, 0.8, heads=1)
    assert prompt.arithmetic_s == pytest.approx(2 * (400e6 * 500 + 100e6) / 1e12)
    assert (prompt.bound, prompt.share) == ("arithmetic", pytest.approx(0.50025))


def test_the_middle_round_is_that_of_the_shares() -> None:
    rounds = [point("x", 1, step_s) for step_s in (0.05, 0.04, 0.09)]
    assert middle(rounds).step_s == 0.05
    assert middle(rounds[:2]) in rounds[:2]


def test_runs_of_a_case_that_differ_are_said_to_be_the_machine() -> None:
    rounds = [replace(point("x", 1, 0.04), spread=1.5), point("x", 1, 0.05)]
    assert spread(rounds) == pytest.approx(1.5)
    assert spread([*rounds, point("x", 1, 0.08)]) == pytest.approx(2.0)
    calm = replace(point("calm", 1, 0.04), spread=1.4)
    assert not any("busy" in text for text in conclusions(Explanation((calm,), ())))
    wild = replace(point("wild", 1, 0.05), spread=2.34)
    said = [text for text in conclusions(Explanation((calm, wild), ())) if "busy" in text]
    assert len(said) == 1
    assert "took up to 2.3 times as long in one run as in another (wild)" in said[0]


async def test_a_slow_first_run_does_not_count_and_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where something else computes while the first case runs."""
    clock = FakeClock()
    timer = SimpleNamespace(perf_counter=clock.monotonic_s)
    monkeypatch.setattr("headrace.planner.step_times.time", timer)

    async def take_time(request: GenerateRequest, step: int) -> None:
        clock.advance(0.3 if len(backend.requests) == 2 else 0.1)

    info = ModelInfo("tiny", 10_000, 0, "tiny")
    backend = FakeBackend(pieces=("word ",) * 64, info=info, before_step=take_time)

    @asynccontextmanager
    async def open_() -> AsyncIterator[Opened]:
        yield Opened(backend, WORK, 100.0, lambda: ROOF)

    limit = TimeLimit(1000.0, 1000, clock.monotonic_s)
    cases = (Case(name="first"), Case(name="second"))
    found = await explain([Variant("own", open_, cases)], (), 1, limit=limit)
    first, second = found.points
    assert (first.step_s, first.spread) == (pytest.approx(0.1), pytest.approx(3.0))
    assert (second.step_s, second.spread) == (pytest.approx(0.1), 1.0)
    assert any("busy" in text and "(first)" in text for text in conclusions(found))


def test_factors_come_by_effect_and_need_two_points() -> None:
    points = {"1": point("1", 1, 0.04), "8": point("8", 8, 0.08), "far": point("far", 1, 0.05)}
    sweeps = [
        Sweep(factor="context", names=("1", "far"), labels=("short", "long")),
        Sweep(factor="batch size", names=("1", "8"), labels=("one", "eight"), is_for_one=False),
        Sweep(factor="threads", names=("1", "not run"), labels=("two", "one")),
    ]
    batch, context = factors(sweeps, points)
    assert (batch.factor, batch.best, batch.worst) == ("batch size", "eight", "one")
    assert batch.times == pytest.approx(4.0)
    assert (context.worst, context.times) == ("long", pytest.approx(1.25))
    found = Explanation(tuple(points.values()), (batch, context), ("1",))
    first, second, third = conclusions(found)
    assert "batch size: with eight 4.0 times the tokens a second of one" in first
    assert "For one stream" in second and "context: with short 1.2 times" in second
    assert "bound by memory" in third


async def test_every_case_of_every_round_is_run_once_and_engines_are_closed() -> None:
    is_open: list[str] = []
    closed: list[str] = []

    @asynccontextmanager
    async def open_(name: str, max_model_len: int) -> AsyncIterator[Opened]:
        async def take_turns(request: object, step: int) -> None:
            await asyncio.sleep(0)

        info = ModelInfo("tiny", max_model_len, 0, "tiny")
        backend = FakeBackend(pieces=("word ",) * 64, info=info, before_step=take_turns)
        assert not is_open
        is_open.append(name)
        yield Opened(backend, WORK, 100.0, lambda: ROOF)
        is_open.remove(name)
        closed.append(f"{name} {len(backend.requests)}")

    cases = (
        Case(name="1 stream"),
        Case(name="3 streams", num_streams=3),
        Case(name="far", num_words=400, has_prompt=True),
    )
    variants = [
        Variant("own", partial(open_, "own", 10_000), cases),
        Variant("short", partial(open_, "short", 500), (cases[2], Case(name="text", text="Say."))),
    ]
    seen: list[str] = []
    sweeps = [Sweep(factor="batch size", names=("1 stream", "3 streams"), labels=("1", "3"))]
    found = await explain(variants, sweeps, 2, seen.append)
    assert seen == 2 * ["1 stream", "3 streams", "far", "far", "text"]
    # A warm-up each, and each case twice; a prompt that has no room in the context is not asked.
    assert closed == 2 * ["own 11", "short 3"]
    names = [each.name for each in found.points]
    assert names == ["1 stream", "3 streams", "far", "far, its prompt", "text"]
    assert found.explained == tuple(names[:4])
    by_name = {each.name: each for each in found.points}
    assert by_name["3 streams"].load.num_rows == 3
    assert by_name["far"].load.kv_bytes == by_name["far"].load.context_tokens * 100
    assert json.loads(json.dumps(found.as_json()))["factors"][0]["factor"] == "batch size"


@pytest.mark.parametrize(
    ("limit_s", "num_asked", "num_probes", "said"),
    [
        # A warm-up of each of three engines, and four cases twice. The first case is run twice
        # wherever it fits in: all others are compared with it.
        (16.0, 11, 3, []),
        (8.0, 8, 3, ["in 8 s here: 3 of 4 cases ran once in place of twice"]),
        (5.0, 6, 1, ["2 of 3 cases ran once", "earlier engine: 1 of", "left out: 1 thread. --rou"]),
        (1.5, 2, 1, ["1 of 1 cases ran once", "left out: second, kept otherwise, 1 thread."]),
    ],
)
async def test_where_time_is_short_repeats_go_first_and_it_is_said(
    limit_s: float, num_asked: int, num_probes: int, said: list[str]
) -> None:
    clock = FakeClock()
    asked: list[GenerateRequest] = []
    probes: list[str] = []

    async def take_a_second(request: GenerateRequest) -> None:
        clock.advance(1.0)
        asked.append(request)

    @asynccontextmanager
    async def open_(name: str) -> AsyncIterator[Opened]:
        def probe() -> Roof:
            probes.append(name)
            return ROOF

        info = ModelInfo("tiny", 10_000, 0, "tiny")
        backend = FakeBackend(pieces=("word ",) * 64, info=info, admission=take_a_second)
        yield Opened(backend, WORK, 100.0, probe)

    variants = [
        Variant("own", partial(open_, "own"), (Case(name="first"), Case(name="second"))),
        Variant("kept", partial(open_, "kept"), (Case(name="kept otherwise"),)),
        Variant("one", partial(open_, "one"), (Case(name="1 thread"),), has_own_roof=True),
    ]
    limit = TimeLimit(limit_s, 4, clock.monotonic_s)
    found = await explain(variants, (), 1, limit=limit)
    assert (len(asked), len(probes)) == (num_asked, num_probes)
    assert len(found.notes) == bool(said)
    assert all(part in found.notes[0] for part in said), found.notes
    assert found.as_json()["conclusions"][-len(found.notes) :] == list(found.notes) or not said


async def test_answers_that_never_run_together_are_left_out_and_named() -> None:
    backend = OneSeat(pieces=("word ",) * 64, info=ModelInfo("tiny", 10_000, 0, "tiny"))

    @asynccontextmanager
    async def open_() -> AsyncIterator[Opened]:
        yield Opened(backend, WORK, 100.0, lambda: ROOF)

    cases = (Case(name="1 stream"), Case(name="48 streams", num_streams=48), Case(name="other"))
    found = await explain([Variant("own", open_, cases)], (), 1)
    assert [point.name for point in found.points] == ["1 stream", "other"]
    assert found.notes == ("Not timed, for the answers never ran at the same time: 48 streams.",)
    # So many tokens as streams, that the first goes on until the last has begun.
    lengths = [request.sampling.max_tokens for request in backend.requests]
    assert lengths == [8, 32, 32, *[48] * 96, 32, 32]


def test_a_plan_changes_one_thing_at_a_time() -> None:
    config = Config(engine=EngineConfig(num_threads=2))
    quick = plan_explain("m", config, {}, is_quick=True)
    full = plan_explain("m", config, {"q8_0": "/m.gguf"}, is_quick=False)
    names = {case.name for variant in full.variants for case in variant.cases}
    for sweep in full.sweeps:
        assert set(sweep.names) <= names, sweep.factor
    assert len(names) == full.num_cases > quick.num_cases
    factors_ = [sweep.factor for sweep in full.sweeps]
    assert factors_[:4] == ["batch size", "context", "threads", "keys and values"]
    assert factors_[-1] == "weight format"
    one = plan_explain("m", Config(engine=EngineConfig(num_threads=1)), {}, is_quick=True)
    assert "threads" not in [sweep.factor for sweep in one.sweeps]
