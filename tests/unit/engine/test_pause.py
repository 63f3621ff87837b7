"""An engine that is paused, in each of the three ways, and what is known of a pause elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from fakes.fake_runner import FakeRunner
from fakes.running_engine import Running, ask, collect, running_engine, script
from headrace.core.errors import BackendError, CapacityError
from headrace.core.output import RequestOutput
from headrace.engine.channel import ThreadChannel
from headrace.engine.given_orders import GivenOrders
from headrace.engine.kept_orders import KeptOrders
from headrace.engine.messages import (
    EngineOrder,
    OrderDone,
    PauseEngine,
    ResetPrefixes,
    ResumeEngine,
)
from headrace.launch.pool_pauses import PoolPauses

ANSWER = "0123456789abcdef"


async def begun(running: Running) -> AsyncGenerator[RequestOutput, None]:
    """A stream whose first token is there; the engine waits in the step after it."""
    running.runner.gate.clear()
    gated = running.runner.first_gated_step = len(running.runner.steps) + 2
    stream = await running.backend.generate(ask("begun", request_id="begun"))
    await running.until(lambda: len(running.runner.steps) == gated)
    return stream


async def text_of(stream: AsyncGenerator[RequestOutput, None]) -> str:
    return "".join([delta.text async for output in stream for delta in output.deltas])


async def test_wait_ends_what_runs_and_keeps_the_rest_in_the_queue() -> None:
    async with running_engine(script(ANSWER)) as running:
        stream = await begun(running)
        pausing = asyncio.ensure_future(running.backend.pause("wait"))
        health = running.backend.health()
        assert (health.status, health.is_recovering) == ("paused", True)
        late = asyncio.create_task(collect(running.backend, ask("late")))
        running.runner.gate.set()
        assert await text_of(stream) == ANSWER
        assert await pausing is True
        await running.until(lambda: running.backend._output.num_unfinished == 1)
        assert not running.scheduler.has_work and not late.done()
        (row,) = (await running.backend.activity())[0].requests
        assert (row.phase, row.waits_for) == ("waiting", "pause")
        assert await running.backend.resume()
        assert (await late).deltas[0].text == ANSWER
        assert running.backend.health().status == "ready"
        await running.until_idle()


async def test_keep_freezes_a_stream_which_goes_on_later() -> None:
    async with running_engine(script(ANSWER)) as running:
        stream = await begun(running)
        pausing = asyncio.ensure_future(running.backend.pause("keep"))
        running.runner.gate.set()
        assert await pausing is True
        num_steps = len(running.runner.steps)
        first = await anext(stream)
        assert not running.scheduler.has_work
        assert running.kv_cache.usage > 0
        (row,) = (await running.backend.activity())[0].requests
        assert (row.phase, row.waits_for) == ("waiting", "pause")
        assert len(running.runner.steps) == num_steps
        await running.backend.resume()
        assert first.deltas[0].text + await text_of(stream) == ANSWER
        await running.until_idle()


async def test_abort_ends_every_stream_with_an_error_that_says_why() -> None:
    async with running_engine(script(ANSWER)) as running:
        stream = await begun(running)
        pausing = asyncio.ensure_future(running.backend.pause("abort"))
        running.runner.gate.set()
        with pytest.raises(CapacityError, match=r"was paused .* Send it again") as caught:
            await text_of(stream)
        assert not caught.value.is_full
        assert await pausing is True
        late = asyncio.create_task(collect(running.backend, ask("late")))
        await running.until(lambda: running.backend._output.num_unfinished == 1)
        await running.backend.resume()
        assert (await late).deltas[0].text == ANSWER
        await running.until_idle()


async def test_a_client_that_leaves_a_paused_engine_leaves_nothing_behind() -> None:
    async with running_engine(script(ANSWER)) as running:
        stream = await begun(running)
        pausing = asyncio.ensure_future(running.backend.pause("keep"))
        running.runner.gate.set()
        await pausing
        queued = await running.backend.generate(ask("queued", request_id="queued"))
        await stream.aclose()
        await queued.aclose()
        await running.until_idle()
        await running.backend.resume()


async def test_a_pause_that_is_overtaken_says_so() -> None:
    async with running_engine(script(ANSWER)) as running:
        stream = await begun(running)
        pausing = asyncio.ensure_future(running.backend.pause("wait"))
        resuming = asyncio.ensure_future(running.backend.resume())
        running.runner.gate.set()
        assert (await pausing, await resuming) == (False, True)
        assert await text_of(stream) == ANSWER


async def test_a_pause_clears_the_prefix_cache_unless_told_otherwise() -> None:
    async with running_engine(script(ANSWER)) as running:
        for clear_cache, is_left in ((False, True), (True, False)):
            await collect(running.backend, ask("a prompt of some blocks"))
            assert await running.backend.pause("wait", clear_cache=clear_cache)
            assert bool(running.kv_cache.num_cached_blocks) == is_left
            await running.backend.resume()


async def test_a_reset_waits_for_nobody_and_changes_no_answer() -> None:
    async with running_engine(script(ANSWER)) as running:
        stream = await begun(running)
        refused = asyncio.ensure_future(running.backend.reset_prefix_cache())
        done = asyncio.ensure_future(running.backend.reset_prefix_cache(reset_running=True))
        running.runner.gate.set()
        assert (await refused, await done) == (False, True)
        assert await text_of(stream) == ANSWER


async def test_an_engine_that_ended_takes_no_orders_and_answers_those_it_had() -> None:
    runner: FakeRunner
    async with running_engine(script(ANSWER)) as running:
        runner, stream = running.runner, await begun(running)
        pausing = asyncio.ensure_future(running.backend.pause("wait"))
        runner.failure = ValueError("bad kernel")
        runner.gate.set()
        with pytest.raises(BackendError, match="bad kernel"):
            await pausing
        with pytest.raises(BackendError, match="bad kernel"):
            await text_of(stream)
        with pytest.raises(BackendError, match="bad kernel"):
            await running.backend.resume()


async def test_nothing_moves_in_an_engine_that_was_stopped() -> None:
    """Orders reach one that is being replaced before, while and after it ends."""
    async with running_engine(script(ANSWER)) as running:
        backend, stream = running.backend, await begun(running)
        before = asyncio.ensure_future(backend.pause("wait"))
        stopping = asyncio.create_task(backend.stop())
        await asyncio.sleep(0)
        meanwhile = asyncio.ensure_future(backend.pause("wait"))
        running.runner.gate.set()
        await stopping
        with pytest.raises(BackendError, match="was stopped"):
            await text_of(stream)
        assert await before and await meanwhile
        assert await backend.pause("keep")
        assert await backend.resume()
        assert await backend.reset_prefix_cache()


async def test_an_order_to_all_reaches_those_behind_one_that_died() -> None:
    async with running_engine(script(ANSWER)) as dead, running_engine(script(ANSWER)) as living:
        stream = await begun(dead)
        dead.runner.failure = ValueError("bad kernel")
        dead.runner.gate.set()
        with pytest.raises(BackendError, match="bad kernel"):
            await text_of(stream)
        pauses = PoolPauses()
        with pytest.raises(BackendError, match="bad kernel"):
            await pauses.pause(["a", "b"], [dead.backend, living.backend], "wait", True)
        assert living.backend.health().status == "paused"
        with pytest.raises(BackendError, match="bad kernel"):
            await pauses.resume(["a", "b"], [dead.backend, living.backend])
        assert living.backend.health().status == "ready"


async def test_an_order_that_finds_no_room_leaves_nothing_behind() -> None:
    inbox: ThreadChannel[EngineOrder] = ThreadChannel(1)
    orders = GivenOrders(inbox.send)
    waiting = asyncio.ensure_future(orders.reset_prefixes(False))
    with pytest.raises(CapacityError, match="1 messages wait"):
        orders.pause(False, False)
    assert not orders.is_paused
    assert len(orders._open) == 1
    orders.take(OrderDone(0, is_done=True))
    assert await waiting


def test_the_next_process_is_paused_before_it_gets_a_request() -> None:
    kept = KeptOrders()
    pause = PauseEngine(0, keeps_running=False, clears_cache=True)
    kept.send(pause)
    assert not kept.stands_still
    first = PauseEngine(-1, keeps_running=False, clears_cache=False)
    # What it waits for runs in the next process: it is told again when that has it.
    assert (kept.before_requests(), kept.after_requests()) == ([first], [pause])
    kept.take(OrderDone(-1, is_done=True))
    assert not kept.stands_still
    kept.take(OrderDone(0, is_done=True))
    assert kept.stands_still
    assert (kept.before_requests(), kept.after_requests()) == ([first], [])
    reset = ResetPrefixes(1, resets_running=False)
    kept.send(reset)
    assert kept.are_open
    kept.send(ResumeEngine(2))
    assert not kept.stands_still
    assert (kept.before_requests(), kept.after_requests()) == ([], [reset, ResumeEngine(2)])
