"""A second backend beside a slow one: who wins, what becomes of the other, how often."""

from __future__ import annotations

import asyncio
import math

import pytest

from fakes.fake_backend import FakeBackend
from fakes.fake_clock import FakeClock
from fakes.upstreams import ask, words
from headrace.core.errors import (
    CapacityError,
    ConfigError,
    RequestError,
    UnsupportedParameter,
)
from headrace.core.message import Tool
from headrace.core.output import RequestOutput
from headrace.core.routing_options import HedgeConfig
from headrace.router.health import HealthBook
from headrace.router.hedging import HedgePolicy, Race, Stream


class Contest:
    """A race of two backends, told by their gates."""

    def __init__(self, first: FakeBackend, second: FakeBackend | None) -> None:
        self.backends = (first, second)
        self.errors: list[Exception] = []
        self.lost: list[Stream] = []
        self.won: list[Stream] = []
        self.streams: list[Stream] = []

    async def run(self, delay_s: float = 0.0) -> list[RequestOutput]:
        first, second = self.backends
        self.streams = [opened(first)]

        def begin_second() -> Stream | None:
            if second is None:
                return None
            self.streams.append(opened(second))
            return self.streams[-1]

        def lost(stream: Stream, error: Exception) -> None:
            self.errors.append(error)
            self.lost.append(stream)

        race = Race(self.streams[0], begin_second, lost)
        return [output async for output in race.outputs(delay_s, self.won.append)]


async def opened(backend: FakeBackend) -> Stream:  # type: ignore[misc]
    """A stream that asks when it is read."""
    stream = await backend.generate(ask(sampling=None))
    try:
        async for output in stream:
            yield output
    finally:
        await stream.aclose()


def held(gate: asyncio.Event, pieces: tuple[str, ...] = ("slow",)) -> FakeBackend:
    """A backend that says nothing before its gate opens."""

    async def wait(request: object, step: int) -> None:
        await gate.wait()

    return FakeBackend(pieces=pieces, before_step=wait)


def failing(error: Exception, gate: asyncio.Event | None = None) -> FakeBackend:
    async def fail(request: object) -> None:
        if gate is not None:
            await gate.wait()
        raise error

    return FakeBackend(admission=fail)


async def test_the_second_answers_where_the_first_is_slow_and_the_first_is_ended() -> None:
    slow, quick = held(asyncio.Event()), FakeBackend(pieces=("quick", " one"))
    contest = Contest(slow, quick)
    assert words(await contest.run()) == "quick one"
    assert contest.won == [contest.streams[1]]
    assert slow.num_running == quick.num_running == 0
    assert len(slow.closed) == 1


async def test_the_first_answers_where_it_is_in_time_and_no_other_is_asked() -> None:
    quick, other = FakeBackend(pieces=("quick",)), FakeBackend()
    contest = Contest(quick, other)
    assert words(await contest.run(delay_s=60.0)) == "quick"
    assert not other.requests
    assert not contest.won


async def test_the_first_can_still_win() -> None:
    gate = asyncio.Event()
    first, second = held(gate), held(asyncio.Event())
    contest = Contest(first, second)
    running = asyncio.create_task(contest.run())
    async with asyncio.timeout(60):
        while not second.requests:
            await asyncio.sleep(0)
    gate.set()
    assert words(await running) == "slow"
    assert contest.won == [contest.streams[0]]
    assert second.num_running == 0


async def test_without_a_second_the_first_is_waited_for() -> None:
    gate = asyncio.Event()
    contest = Contest(held(gate), None)
    running = asyncio.create_task(contest.run())
    await asyncio.sleep(0)
    gate.set()
    assert words(await running) == "slow"


async def test_one_that_fails_leaves_the_other_to_answer() -> None:
    gate = asyncio.Event()
    contest = Contest(failing(CapacityError("full"), gate), held(gate))
    running = asyncio.create_task(contest.run())
    async with asyncio.timeout(60):
        while len(contest.streams) < 2:
            await asyncio.sleep(0)
    gate.set()
    assert words(await running) == "slow"
    assert [str(error) for error in contest.errors] == ["full"]
    assert contest.lost == contest.streams[:1]
    refused = Contest(held(gate := asyncio.Event()), failing(UnsupportedParameter("n", "no.")))
    running = asyncio.create_task(refused.run())
    async with asyncio.timeout(60):
        while not refused.errors:
            await asyncio.sleep(0)
    gate.set()
    assert words(await running) == "slow"
    assert refused.lost == refused.streams[1:]


@pytest.mark.parametrize("error", [CapacityError("full"), RequestError("yours")])
async def test_when_both_fail_or_the_caller_is_at_fault_that_is_told(error: Exception) -> None:
    is_fault = isinstance(error, RequestError)
    second = held(asyncio.Event()) if is_fault else failing(error)
    gate = asyncio.Event()
    contest = Contest(failing(error, gate), second)
    running = asyncio.create_task(contest.run())
    async with asyncio.timeout(60):
        while not second.requests:
            await asyncio.sleep(0)
    gate.set()
    with pytest.raises(type(error)):
        await running
    assert second.num_running == 0


async def test_leaving_ends_both() -> None:
    first, second = held(asyncio.Event()), held(asyncio.Event())
    running = asyncio.create_task(Contest(first, second).run())
    async with asyncio.timeout(60):
        while not (first.num_running and second.num_running):
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert first.num_running == second.num_running == 0


def test_no_more_than_the_share_of_all_calls() -> None:
    policy = HedgePolicy(HedgeConfig(after_s=0.1, max_share=0.1))
    num_hedged = 0
    for number in range(1, 301):
        policy.delay_s(ask(), lambda percentile: None)
        num_hedged += policy.take()
        assert num_hedged <= 0.1 * number + 1e-6
    assert num_hedged == 30
    for _ in range(10_000):
        policy.delay_s(ask(), lambda percentile: None)
    assert sum(policy.take() for _ in range(100)) == 10


def test_what_is_not_hedged() -> None:
    policy = HedgePolicy(HedgeConfig(after_s=0.5))
    both = HedgePolicy(HedgeConfig(after_s=0.5, with_effects=True))

    def delay(policy: HedgePolicy, **fields: object) -> float:
        return policy.delay_s(ask(**fields), lambda percentile: None)

    assert delay(policy) == 0.5
    assert delay(policy, tools=(Tool("f"),)) == delay(policy, has_effects=True) == math.inf
    assert delay(both, tools=(Tool("f"),)) == delay(both, has_effects=True) == 0.5
    assert delay(both, is_background=True) == math.inf
    unknown = HedgePolicy(HedgeConfig(after_percentile=95))
    assert delay(unknown) == math.inf
    assert unknown.delay_s(ask(), lambda percentile: percentile / 100) == 0.95


def test_the_time_is_a_percentile_of_what_the_backend_took() -> None:
    clock = FakeClock()
    book = HealthBook(clock)
    for number in range(19):
        book.hear("near", float(number))
    assert book.first_token_s("near", 95) is None
    # It was not waited for to its end.
    book.note_wait("near", 100.0)
    assert book.first_token_s("near", 95) == 18.0
    assert book.first_token_s("near", 50) == 9.0
    assert book.first_token_s("near", 99.9) == 100.0
    assert book.first_token_s("other", 95) is None
    clock.advance(601)
    assert book.first_token_s("near", 95) is None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"after_s": 0.0},
        {"after_percentile": 100},
        {"after_percentile": 10},
        {"after_s": 1.0, "max_share": 0.0},
    ],
)
def test_settings_are_checked(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="hedge"):
        HedgeConfig(**fields)
