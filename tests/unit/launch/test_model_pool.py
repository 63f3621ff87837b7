"""Several models in one memory: loading on demand, making room, replacing, and nobody dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from fakes.fake_clock import FakeClock
from fakes.pooled_models import Files
from headrace.core.backend import Health
from headrace.core.errors import BackendError, ConfigError, ModelNotFound, RequestError
from headrace.core.message import Message
from headrace.core.request import GenerateRequest
from headrace.launch.model_pool import ModelPool


@asynccontextmanager
async def pooled(
    files: Files, clock: FakeClock | None = None, idle_unload_s: float | None = None
) -> AsyncIterator[ModelPool]:
    pool = ModelPool(files.models(), 100, clock or FakeClock(), idle_unload_s)
    await pool.start()
    try:
        yield pool
    finally:
        files.gate.set()
        await pool.stop()
        assert not any(engine.is_running for made in files.engines.values() for engine in made)


def ask(model: str) -> GenerateRequest:
    return GenerateRequest(request_id="r", model=model, prompt="hi")


async def answer(pool: ModelPool, model: str) -> str:
    stream = await pool.generate(ask(model))
    return "".join([output.deltas[0].text async for output in stream])


async def until(is_so: object) -> None:
    async with asyncio.timeout(60):
        while not is_so():  # type: ignore[operator]
            await asyncio.sleep(0.001)


async def answers(pool: ModelPool, models: Sequence[str]) -> list[str]:
    return await asyncio.gather(*(answer(pool, model) for model in models))


async def test_models_are_loaded_when_asked_for_and_stay() -> None:
    files = Files({"a": 40, "b": 40})
    async with pooled(files) as pool:
        assert pool.loaded() == ["a"]
        assert [info.name for info in pool.models()] == ["a", "b"]
        assert await answers(pool, "abab") == ["a0!", "b0!", "a0!", "b0!"]
        with pytest.raises(ModelNotFound, match="nope"):
            await pool.generate(ask("nope"))


async def test_messages_to_a_model_without_a_template_load_nothing() -> None:
    files = Files({"a": 60, "base": 60}, bases={"base"})
    chat = replace(ask("base"), prompt=None, messages=(Message("user", "hi"),))
    async with pooled(files) as pool:
        for asked in (pool.generate(chat), pool.text("base").encode(chat)):
            with pytest.raises(RequestError, match="no chat template") as refused:
                await asked
            assert refused.value.param == "messages"
        assert pool.loaded() == ["a"]
        assert "base" not in files.engines
        assert await answer(pool, "base") == "base0!"


async def test_the_longest_unused_makes_room() -> None:
    files, clock = Files({"a": 40, "b": 40, "c": 40}), FakeClock()
    async with pooled(files, clock) as pool:
        for model in "aba":
            await answer(pool, model)
            clock.advance(1)
        assert await answer(pool, "c") == "c0!"
        assert pool.loaded() == ["a", "c"]
        assert await answer(pool, "b") == "b1!"
        assert pool.loaded() == ["c", "b"]


async def test_a_model_that_answers_is_not_taken_away() -> None:
    files, clock = Files({"a": 60, "b": 60}), FakeClock()
    async with pooled(files, clock) as pool:
        stream = await pool.generate(ask("a"))
        assert (await anext(stream)).deltas[0].text == "a0"
        waiting = asyncio.create_task(answer(pool, "b"))
        await asyncio.sleep(0.05)
        late = asyncio.create_task(answer(pool, "a"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert (await anext(stream)).is_finished
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        # Who came for `a` after `b` had its turn waits until `a` is back.
        assert await asyncio.gather(waiting, late) == ["b0!", "a1!"]


@pytest.mark.parametrize("how", ["close", "drop"])
async def test_a_reader_that_leaves_frees_its_model(how: str) -> None:
    files = Files({"a": 60, "b": 60})
    async with pooled(files) as pool:
        stream = await pool.generate(ask("a"))
        await anext(stream)
        if how == "close":
            await stream.aclose()
        files.engines["a"][0].num_running = 0
        del stream
        assert await answer(pool, "b") == "b0!"


async def test_one_load_for_all_who_wait_and_none_for_who_has_gone() -> None:
    files = Files({"a": 40, "b": 40})
    async with pooled(files) as pool:
        files.gate.clear()
        asking = [asyncio.create_task(answer(pool, "b")) for _ in range(20)]
        await asyncio.sleep(0.02)
        for task in asking[:10]:
            task.cancel()
        assert await answer(pool, "a") == "a0!"  # others go on meanwhile
        files.gate.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert found[10:] == ["b0!"] * 10
        assert len(files.engines["b"]) == 1


async def test_a_failed_load_is_told_and_tried_again() -> None:
    files = Files({"a": 40, "b": 40})
    async with pooled(files) as pool:
        files.faults = {"b"}
        for _ in range(2):
            with pytest.raises(BackendError, match="b could not be loaded: b is damaged"):
                await answer(pool, "b")
        assert await answer(pool, "a") == "a0!"
        files.faults = set()
        assert await answer(pool, "b") == "b0!"


@pytest.mark.parametrize("size", [40, 60])
async def test_a_model_is_replaced_under_its_requests(size: int) -> None:
    """Beside the old one where both fit (40), after it where they do not (60)."""
    files = Files({"a": size})
    async with pooled(files) as pool:
        stream = await pool.generate(ask("a"))
        await anext(stream)
        replacing = asyncio.create_task(pool.replace("a"))
        await asyncio.sleep(0.05)
        if size == 40:
            async with asyncio.timeout(60):
                while (found := await answer(pool, "a")) == "a0!":
                    await asyncio.sleep(0.001)
            assert found == "a1!"
        assert [output.deltas[0].text async for output in stream] == ["!"]
        await replacing
        assert await answer(pool, "a") == "a1!"
        await until(lambda: not files.engines["a"][0].is_running)
        files.faults = {"a"}
        with pytest.raises(BackendError, match="damaged"):
            await pool.replace("a")
        if size == 40:
            assert await answer(pool, "a") == "a1!"


async def test_idle_models_are_unloaded_and_come_back() -> None:
    files, clock = Files({"a": 40, "b": 40}), FakeClock()
    async with pooled(files, clock, idle_unload_s=0.04) as pool:
        await answer(pool, "b")
        stream = await pool.generate(ask("a"))
        clock.advance(1)
        await until(lambda: pool.loaded() == ["a"])
        await stream.aclose()
        clock.advance(1)
        await until(lambda: pool.loaded() == [])
        assert pool.health() == Health("ready")
        assert await answer(pool, "a") == "a1!"


async def test_unload_waits_for_requests() -> None:
    files = Files({"a": 40})
    async with pooled(files) as pool:
        stream = await pool.generate(ask("a"))
        unloading = asyncio.create_task(pool.unload("a"))
        await asyncio.sleep(0.02)
        assert not unloading.done()
        assert len([output async for output in stream]) == 2
        await unloading
        assert pool.loaded() == []
        await pool.load("a")
        assert pool.loaded() == ["a"]


async def test_a_model_that_never_fits_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"engine\.memory.*b alone"):
        ModelPool(Files({"a": 40, "b": 101}).models(), 100, FakeClock())


async def test_a_paused_model_is_paused_wherever_it_runs() -> None:
    files = Files({"a": 40, "b": 40})
    async with pooled(files) as pool:
        assert await pool.pause("b", "wait")
        assert (pool.is_paused("b"), pool.is_paused("a"), pool.is_paused(None)) == (
            *(True, False, False),
        )
        assert pool.health() == Health("ready")
        await pool.load("b")
        (engine,) = files.engines["b"]
        assert engine.orders == ["keep"]  # before it gets a request
        await pool.pause(None, "abort")
        assert engine.orders == ["keep", "abort"] and files.engines["a"][0].orders == ["abort"]
        assert pool.is_paused(None) and pool.health().status == "paused"
        await pool.replace("b")
        assert files.engines["b"][1].orders == ["keep"]
        await pool.unload("b")
        await pool.unload("a")
        assert pool.health().is_recovering and pool.health().status == "paused"
        await pool.resume(None)
        assert pool.health() == Health("ready")
        await pool.load("a")
        assert files.engines["a"][1].orders == []
        with pytest.raises(ModelNotFound):
            await pool.pause("nope", "wait")


async def test_a_model_that_is_resumed_while_it_loads_is_not_left_paused() -> None:
    files = Files({"a": 40, "b": 40})
    async with pooled(files) as pool:
        await pool.pause("b", "keep")
        files.gate.clear()
        loading = asyncio.create_task(pool.load("b"))
        await asyncio.sleep(0)
        await pool.resume("b")
        files.gate.set()
        await loading
        assert files.engines["b"][0].state == Health("ready")


async def test_an_engine_that_ends_what_it_has_is_resumed_too() -> None:
    files = Files({"a": 40})
    async with pooled(files) as pool:
        stream = await pool.generate(ask("a"))
        await anext(stream)
        await pool.pause("a", "keep")
        await pool.replace("a")
        await pool.resume("a")
        old, new = files.engines["a"]
        assert (old.orders, new.orders) == (["keep", "resume"], ["keep", "resume"])
        assert not await pool.reset_prefix_cache("a")
        assert await pool.reset_prefix_cache("a", reset_running=True)
        await stream.aclose()
        assert await pool.reset_prefix_cache(None)
