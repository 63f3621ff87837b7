"""Closed and open loops over real sockets and over a real engine's async interface."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from fakes.completion_server import Exchange, answer, completion_server
from fakes.running_engine import running_engine
from headrace.bench.engine_target import EngineTarget, TokenPrompts
from headrace.bench.http_target import HttpTarget
from headrace.bench.lengths import Lengths
from headrace.bench.load import LoadRun
from headrace.bench.load_report import LoadSettings
from headrace.bench.outcome import Outcome
from headrace.bench.run_load import LoadPlan, run_load
from headrace.bench.workload import Ask
from headrace.client.endpoint import parse_endpoint
from headrace.core.message import Message

SERVICE_S = 0.05


def asks(count: int, max_tokens: int = 1) -> list[Ask]:
    return [Ask(index, f"prompt {index}", max_tokens) for index in range(count)]


def make_run(url: str, on_end: Callable[[Outcome], Any] = lambda ended: None) -> LoadRun:
    return LoadRun(HttpTarget(parse_endpoint(url), "tiny"), 20.0, on_end)


class OneAtATime:
    """A server's script: answers wait for each other, and each takes SERVICE_S.

    The first waits until `num_expected` have come.
    """

    def __init__(self, num_expected: int = 1) -> None:
        self._lock, self._has_all = asyncio.Lock(), asyncio.Event()
        self._num_expected = num_expected
        self.num_inside = self.most_inside = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        if self.num_inside == self._num_expected:
            self._has_all.set()
        async with self._lock:
            await self._has_all.wait()
            await asyncio.sleep(SERVICE_S)
            await answer(exchange)
        self.num_inside -= 1


async def test_an_open_loop_omits_no_wait() -> None:
    """Arrivals at four times what the server can do: it is the queue that is measured.

    A client that waited for answers before it sent more would see SERVICE_S for each.
    """
    script = OneAtATime()
    arrivals_s = [0.25 * SERVICE_S * index for index in range(12)]
    async with completion_server(script) as server:
        outcomes = await make_run(server.url).open(asks(12), arrivals_s)
    assert [outcome.index for outcome in outcomes] == list(range(12))
    assert [outcome.scheduled_s for outcome in outcomes] == arrivals_s
    assert script.most_inside >= 6
    for index, outcome in enumerate(outcomes):
        assert outcome.failure is None and outcome.ttft_s is not None
        # D/D/1: this one is served after `index` others, however late it came.
        assert outcome.ttft_s >= (index + 1) * SERVICE_S - arrivals_s[index] - 0.005
        assert outcome.sent_s >= outcome.scheduled_s


async def test_an_open_loop_sends_when_due_although_nothing_is_answered() -> None:
    async def never(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with completion_server(never) as server:
        target = HttpTarget(parse_endpoint(server.url), "tiny")
        arrivals_s = [0.0, 0.05, 0.1, 0.15]
        outcomes = await LoadRun(target, 1.0, lambda ended: None).open(asks(4), arrivals_s)
    assert [outcome.failure and outcome.failure.kind for outcome in outcomes] == ["timeout"] * 4
    # A client that waits for answers would send the second when the first is given up.
    assert max(outcome.sent_s for outcome in outcomes) < min(outcome.end_s for outcome in outcomes)
    # Each was given up after its own second, counted from when it was sent.
    assert all(outcome.end_s - outcome.sent_s > 0.99 for outcome in outcomes)


async def test_a_wait_of_the_client_itself_counts() -> None:
    """The event loop is blocked while a request is due: its latency includes that."""
    loop = asyncio.get_running_loop()

    def block() -> None:
        end_s = loop.time() + 0.2
        while loop.time() < end_s:
            pass

    for _ in range(5):
        async with completion_server() as server:
            loop.call_later(0.05, block)
            (first, second) = await make_run(server.url).open(asks(2), [0.0, 0.1])
        if first.send_delay_s < 0.05:  # else the whole machine stood still
            break
    assert first.send_delay_s < 0.05 < second.send_delay_s
    assert second.ttft_s is not None and second.ttft_s > 0.1


@pytest.mark.parametrize("concurrency", [1, 3, 50])
async def test_a_closed_loop_keeps_its_number_running(concurrency: int) -> None:
    script = OneAtATime(min(concurrency, 7))
    ended: list[int] = []
    async with completion_server(script) as server:
        run = make_run(server.url, lambda outcome: ended.append(outcome.index))
        outcomes = await run.closed(asks(7), concurrency)
    assert script.most_inside == min(concurrency, 7)
    assert [outcome.index for outcome in outcomes] == list(range(7))
    assert sorted(ended) == list(range(7))
    if concurrency == 1:
        assert all(b.scheduled_s >= a.end_s for a, b in pairwise(outcomes))


async def test_failures_take_their_place_and_the_rest_goes_on() -> None:
    async def every_third(exchange: Exchange) -> None:
        if exchange.body["messages"][0]["content"].endswith(("0", "3")):
            await exchange.reply("500 Internal Server Error", b"{}")
        else:
            await answer(exchange)

    async with completion_server(every_third) as server:
        outcomes = await make_run(server.url).closed(asks(6), 2)
    kinds = [outcome.failure and outcome.failure.kind for outcome in outcomes]
    assert kinds == ["http_500", None, None, "http_500", None, None]


async def test_drawing_many_requests_can_be_cancelled() -> None:
    """They are drawn in the event loop, which hears Ctrl-C between them."""
    prompts, num_made = TokenPrompts(50_000, 0), 0

    class Counted:
        def make(self, num_tokens: int) -> tuple[int, ...]:
            nonlocal num_made
            num_made += 1
            return prompts.make(num_tokens)

    settings = LoadSettings(
        mode="latency",
        num_requests=10**11,
        concurrency=1,
        rate_per_s=None,
        seed=0,
        prompt_tokens=Lengths(8, 8),
        output_tokens=Lengths(1, 1),
        prompts_file=None,
        ignore_eos=False,
        timeout_s=20.0,
        slo=None,
    )
    target = HttpTarget(parse_endpoint("http://127.0.0.1:9"), "tiny")
    plan = LoadPlan(settings, target, {}, Counted())
    running = asyncio.create_task(run_load(plan, lambda ended: None, "CPU"))
    while not num_made:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert num_made < 10_000


async def test_an_engine_in_this_process() -> None:
    async with running_engine() as running:
        target = EngineTarget(running.backend, ignore_eos=True)
        prompts = [tuple(range(40, 52)), (Message("user", "Hi"),), (65,) * 5000]
        outcomes = await LoadRun(target, 20.0, lambda ended: None).closed(
            [Ask(index, prompt, 5) for index, prompt in enumerate(prompts)], 3
        )
    ids, chat, too_long = outcomes
    assert (ids.failure, ids.input_tokens, ids.output_tokens) == (None, 12, 5)
    assert len(ids.event_s) <= 5 and ids.cached_input_tokens == 0
    assert chat.failure is None and chat.input_tokens == len("user:Hi\n")
    assert too_long.failure is not None and too_long.failure.kind == "context_too_long"
    assert "maximum context length" in too_long.failure.message
