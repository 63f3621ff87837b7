"""The engine as a Backend: many readers, slow ones, leaving ones, and an engine that fails."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest

from fakes.byte_tokenizer import EOS
from fakes.fake_clock import FakeClock
from fakes.fake_runner import expected_output
from fakes.running_engine import MODEL, Running, ask, collect, running_engine, script
from headrace.core.errors import (
    BackendError,
    CapacityError,
    ContextTooLong,
    EngineDied,
    InvalidParameter,
    ModelNotFound,
)
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.telemetry import KV_CACHE_USAGE, NUM_REQUESTS_RUNNING
from headrace.engine.async_engine import NUM_TEXT_THREADS
from headrace.engine.input_processor import PreparedRequest
from headrace.engine.messages import AdapterLoaded, LoadAdapter, Submit, UnloadAdapter
from headrace.engine.seeds import derive_seed

PROMPTS = [f"prompt number {index} " * (1 + index % 4) for index in range(40)]


async def test_many_answers_at_once_through_a_small_pool() -> None:
    async with running_engine(num_blocks=40, max_num_seqs=6) as running:
        requests = [ask(text, seed=i, max_tokens=5 + i) for i, text in enumerate(PROMPTS)]
        outputs = await asyncio.gather(*(collect(running.backend, each) for each in requests))
        for index, output in enumerate(outputs):
            (delta,) = output.deltas
            prompt = tuple(PROMPTS[index].encode())
            assert output.prompt_token_ids == prompt
            wanted = expected_output(prompt, index, 5 + index, 256)
            assert delta.token_ids == wanted
            assert delta.text == bytes(wanted).decode(errors="replace")
            assert delta.finish_reason == "length"
            assert output.usage.output_tokens == 5 + index
            assert output.is_finished
        await running.until_idle()


async def test_deltas_come_as_they_are_made() -> None:
    async with running_engine(script("abcdef")) as running:
        hold_steps(running)
        stream = await running.backend.generate(ask(max_tokens=6))
        text = ""
        while len(text) < 2:
            output = await anext(stream)
            assert not output.is_finished
            text += output.deltas[0].text
        assert text == "ab"
        running.runner.gate.set()
        text += "".join([output.deltas[0].text async for output in stream])
        assert text == "abcdef"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_several_answers_share_one_stream() -> None:
    async with running_engine() as running:
        alone = await collect(running.backend, ask("a shared prompt", max_tokens=9))
        output = await collect(running.backend, ask("a shared prompt", max_tokens=9, n=3))
        deltas = sorted(output.deltas, key=lambda delta: delta.index)
        assert [delta.index for delta in deltas] == [0, 1, 2]
        assert deltas[0].token_ids == alone.deltas[0].token_ids
        prompt = output.prompt_token_ids or ()
        for delta in deltas:
            seed = derive_seed(7, delta.index)
            assert delta.token_ids == expected_output(prompt, seed, 9, 256)
        assert output.usage.input_tokens == len(prompt)
        assert output.usage.output_tokens == 27
        assert output.usage.cached_input_tokens <= len(prompt)
        await running.until_idle()


async def test_drawn_seeds_differ() -> None:
    async with running_engine() as running:
        outputs = [await collect(running.backend, ask(seed=None)) for _ in range(2)]
        assert outputs[0].deltas[0].token_ids != outputs[1].deltas[0].token_ids
        again = await collect(running.backend, ask(seed=outputs[0].seed))
        assert again.deltas[0].token_ids == outputs[0].deltas[0].token_ids
        assert (await collect(running.backend, ask(seed=-3))).seed == -3


def hold_steps(running: Running) -> None:
    """Let the engine take two steps, and no third until its gate opens."""
    running.runner.first_gated_step = 3
    running.runner.gate.clear()


async def leave_unread(running: Running) -> None:
    stream = await running.backend.generate(ask(max_tokens=400))
    await stream.aclose()
    await stream.aclose()


async def leave_after_first_output(running: Running) -> None:
    stream = await running.backend.generate(ask(max_tokens=400))
    await anext(stream)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def leave_by_cancelling(running: Running) -> None:
    task = asyncio.create_task(collect(running.backend, ask(max_tokens=400)))
    await running.until(lambda: bool(running.runner.steps))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def leave_by_dropping(running: Running) -> None:
    stream = await running.backend.generate(ask(max_tokens=400))
    del stream
    gc.collect()


async def leave_by_throwing(running: Running) -> None:
    stream = await running.backend.generate(ask(max_tokens=400))
    with pytest.raises(KeyError):
        await stream.athrow(KeyError("x"))


async def leave_while_waiting(running: Running) -> None:
    stream = await running.backend.generate(ask(max_tokens=400, n=3))
    waiting = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError, StopAsyncIteration):
        await waiting


@pytest.mark.parametrize(
    "leave",
    [
        leave_unread,
        leave_after_first_output,
        leave_by_cancelling,
        leave_by_dropping,
        leave_by_throwing,
        leave_while_waiting,
    ],
)
async def test_leaving_a_stream_frees_everything(leave: object) -> None:
    async with running_engine(max_model_len=1000) as running:
        hold_steps(running)
        await leave(running)  # type: ignore[operator]
        running.runner.gate.set()
        await running.until_idle()
        assert len(running.runner.steps) < 10
        assert (await collect(running.backend, ask(max_tokens=3))).is_finished


async def test_a_thousand_leavers_leave_nothing_behind() -> None:
    async with running_engine(max_waiting_requests=2000, max_model_len=1000) as running:
        for index in range(1000):
            stream = await running.backend.generate(ask(f"{index}", max_tokens=900))
            await stream.aclose()
        await running.until_idle()
        # Eight at a time to their ends would be 112,500 steps.
        assert len(running.runner.steps) < 50_000
        assert len(running.backend._host.inbox) == 0


async def test_a_slow_reader_gets_one_output_and_delays_nobody() -> None:
    async with running_engine() as running:
        slow = await running.backend.generate(ask("slow", max_tokens=200))
        fast = await asyncio.gather(
            *(collect(running.backend, ask(f"fast {i}", max_tokens=200)) for i in range(4))
        )
        assert all(output.is_finished for output in fast)
        await running.until_idle()
        outputs = [output async for output in slow]
        assert len(outputs) == 1
        assert len(outputs[0].deltas) == 1
        prompt = outputs[0].prompt_token_ids or ()
        assert outputs[0].deltas[0].token_ids == expected_output(prompt, 7, 200, 256)
        assert outputs[0].usage.output_tokens == 200


async def test_a_failing_step_fails_its_requests_and_the_engine() -> None:
    async with running_engine(max_model_len=1000) as running:
        hold_steps(running)
        streams = [await running.backend.generate(ask(f"{i}", max_tokens=400)) for i in range(3)]
        first = await anext(streams[0])
        running.runner.failure = FloatingPointError("a kernel broke")
        running.runner.gate.set()
        for stream in streams:
            with pytest.raises(EngineDied, match="FloatingPointError: a kernel broke") as caught:
                async for _ in stream:
                    pass
            assert caught.value.tokens_sent >= (
                len(first.deltas[0].token_ids) if stream is streams[0] else 0
            )
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        assert running.backend.health().status == "dead"
        assert "a kernel broke" in running.backend.health().detail
        with pytest.raises(EngineDied, match="a kernel broke"):
            await running.backend.generate(ask())


async def test_an_engine_that_has_ended_is_shown_with_nothing_in_it() -> None:
    async with running_engine(max_model_len=1000) as running:
        hold_steps(running)
        stream = await running.backend.generate(ask(max_tokens=400))
        await anext(stream)
        gauges = running.metrics.gauges
        assert gauges[NUM_REQUESTS_RUNNING.name] == 1 and gauges[KV_CACHE_USAGE.name] > 0
        running.runner.failure = FloatingPointError("a kernel broke")
        running.runner.gate.set()
        with pytest.raises(EngineDied):
            async for _ in stream:
                pass
        thread = running.backend._output_thread
        await running.until(lambda: thread is not None and not thread.is_alive())
        assert gauges[NUM_REQUESTS_RUNNING.name] == gauges[KV_CACHE_USAGE.name] == 0
        assert not running.backend._stats._newest_token_at_s


async def test_a_failing_output_side_ends_everything_and_hangs_nobody() -> None:
    async with running_engine(max_model_len=1000) as running:
        hold_steps(running)
        stream = await running.backend.generate(ask(max_tokens=900))
        await anext(stream)
        running.metrics.counters = None  # type: ignore[assignment]
        running.runner.gate.set()
        with pytest.raises(EngineDied, match="AttributeError"):
            async for _ in stream:
                pass
        await running.until(lambda: not running.backend._host._thread.is_alive())
        assert running.backend.health().status == "dead"


async def test_stalled_means_that_requests_run_and_no_step_ends() -> None:
    clock = FakeClock()
    async with running_engine(clock=clock) as running:
        clock.advance(1000)
        assert running.backend.health().status == "ready"
        running.runner.gate.clear()
        stream = await running.backend.generate(ask())
        for _ in range(3):
            clock.advance(10)
            assert running.backend.health().status == "ready"
        clock.advance(1)
        health = running.backend.health()
        assert (health.status, health.detail) == (
            "stalled",
            "Unfinished requests: 1; no step ended for 31 s.",
        )
        running.runner.gate.set()
        assert [output async for output in stream][-1].is_finished
        assert running.backend.health().status == "ready"


async def test_a_machine_that_slept_is_not_a_stalled_engine() -> None:
    clock = FakeClock()
    async with running_engine(clock=clock) as running:
        running.runner.gate.clear()
        stream = await running.backend.generate(ask())
        clock.advance(14)
        assert running.backend.health().status == "ready"
        clock.advance(1000)  # nobody looked
        assert running.backend.health().status == "ready"
        clock.advance(2)
        assert running.backend.health().status == "stalled"
        running.runner.gate.set()
        assert [output async for output in stream][-1].is_finished


async def test_a_full_queue_refuses_and_recovers() -> None:
    async with running_engine(max_num_seqs=2, max_waiting_requests=3) as running:
        running.runner.gate.clear()
        streams = [await running.backend.generate(ask(f"{i}")) for i in range(4)]
        with pytest.raises(CapacityError, match="limit is 5") as caught:
            await running.backend.generate(ask(n=2))
        assert caught.value.is_full
        streams.append(await running.backend.generate(ask()))
        with pytest.raises(CapacityError):
            await running.backend.generate(ask())
        assert running.metrics.counters["vllm:admission_rejections_total"] == 2
        running.runner.gate.set()
        for stream in streams:
            assert [output async for output in stream][-1].is_finished
        assert (await collect(running.backend, ask())).is_finished


async def test_draining_ends_what_runs_and_refuses_the_rest() -> None:
    async with running_engine() as running:
        task = asyncio.create_task(collect(running.backend, ask(max_tokens=50)))
        await running.until(lambda: bool(running.runner.steps))
        assert await running.backend.drain(10.0)
        assert (await task).deltas[0].finish_reason == "length"
        assert running.backend.health().status == "draining"
        with pytest.raises(CapacityError, match="shutting down") as caught:
            await running.backend.generate(ask())
        assert not caught.value.is_full


async def test_stopping_ends_streams_with_an_error() -> None:
    async with running_engine(max_model_len=1000) as running:
        hold_steps(running)
        stream = await running.backend.generate(ask(max_tokens=900))
        stopping = asyncio.create_task(running.backend.stop())
        await running.until(lambda: running.backend.health().status != "ready")
        running.runner.gate.set()
        await stopping
        with pytest.raises(BackendError, match="was stopped"):
            while True:
                await anext(stream)
        await running.backend.stop()
        assert running.backend.health().status == "dead"
        with pytest.raises(EngineDied, match="was stopped"):
            await running.backend.generate(ask())


async def test_what_waits_for_its_tokens_when_the_engine_stops_is_told_so() -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def hold(form: StructuredOutputs) -> None:
        begun.release()
        assert go_on.wait(60)

    async with running_engine(check_form=hold) as running:
        backend, form = running.backend, StructuredOutputs(choice=["a"])
        held = [
            asyncio.create_task(backend.generate(ask(structured_outputs=form)))
            for _ in range(NUM_TEXT_THREADS)
        ]
        for _ in held:
            assert await asyncio.to_thread(begun.acquire, timeout=60)
        text = backend.text(MODEL)
        queued = [
            asyncio.ensure_future(backend.generate(ask("abc"))),
            asyncio.ensure_future(text.encode(ask("abc"))),
            asyncio.ensure_future(text.decode([97])),
        ]
        await asyncio.sleep(0)
        await backend.stop()
        go_on.set()
        ends = await asyncio.gather(*held, *queued, return_exceptions=True)
        assert [type(end) for end in ends] == [EngineDied] * 5
        assert {str(end) for end in ends} == {"The engine was stopped."}
        with pytest.raises(EngineDied, match="was stopped"):
            await text.encode(ask("abc"))


async def test_an_idle_engine_uses_no_processor_time() -> None:
    async with running_engine() as running:
        await collect(running.backend, ask())
        await running.until_idle()
        used_s: list[float] = []
        # Threads of other tests are in this process too: one quiet moment is enough.
        while len(used_s) < 20 and min(used_s, default=1.0) >= 0.05:
            before_s = time.process_time()
            await asyncio.sleep(0.3)
            used_s.append(time.process_time() - before_s)
        assert min(used_s) < 0.05


def test_two_event_loops_share_an_engine() -> None:
    async def use_twice() -> None:
        async with running_engine() as running:
            here = asyncio.create_task(collect(running.backend, ask("here", max_tokens=60)))
            there = await asyncio.to_thread(
                asyncio.run, collect(running.backend, ask("there", max_tokens=60))
            )
            outputs: list[RequestOutput] = [await here, there]
            for output in outputs:
                wanted = expected_output(output.prompt_token_ids or (), 7, 60, 256)
                assert output.deltas[0].token_ids == wanted

    asyncio.run(use_twice())


async def test_bad_requests_are_refused_before_a_stream_exists() -> None:
    async with running_engine(max_model_len=64) as running:
        with pytest.raises(ModelNotFound, match="'other'"):
            await running.backend.generate(ask(model="other"))
        with pytest.raises(ContextTooLong):
            await running.backend.generate(ask("x" * 64))
        with pytest.raises(InvalidParameter, match="prompt"):
            await running.backend.generate(ask(()))
        await running.until_idle()
        assert not running.runner.steps


async def test_times_and_metrics_are_those_of_the_run() -> None:
    clock = FakeClock()
    async with running_engine(script("abc", after=EOS), clock=clock) as running:
        output = await collect(running.backend, ask("hi", n=2, max_tokens=20))
        assert output.times is not None
        assert output.times.queue_s == output.times.prefill_s == output.times.decode_s == 0.0
        await running.until_idle()
        seen, counted = running.metrics.observed, running.metrics.counters
        num_prompt_tokens = len(output.prompt_token_ids or ())
        assert counted["vllm:request_success_total:stop"] == 2
        assert counted["vllm:generation_tokens_total"] == 8
        assert counted["vllm:prompt_tokens_total"] == num_prompt_tokens
        assert seen["vllm:request_generation_tokens"] == [4, 4]
        assert seen["vllm:request_params_n"] == [2]
        assert seen["vllm:request_params_max_tokens"] == [20]
        assert len(seen["vllm:time_to_first_token_seconds"]) == 1
        assert len(seen["vllm:inter_token_latency_seconds"]) == 6
        assert running.metrics.gauges["vllm:num_requests_running"] == 0
        assert running.metrics.gauges["vllm:kv_cache_usage_perc"] == 0.0


async def test_a_request_has_the_adapter_that_its_name_stands_for_when_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another one may be loaded under the name while the prompt becomes tokens."""
    async with running_engine() as running:
        engine, sent = running.backend, []
        to_engine, prepare = engine._host.send, engine._input.prepare
        began, goes_on = threading.Event(), threading.Event()

        def send(message: object) -> None:
            """Loads are done at once; what is asked runs without the adapter, which is nobody's."""
            sent.append(message)
            if isinstance(message, LoadAdapter):
                engine._take([AdapterLoaded(message.load_id, f"sha of {message.path}", 8, 9)])
            elif isinstance(message, Submit):
                to_engine(Submit(replace(message.spec, adapter="")))
            elif not isinstance(message, UnloadAdapter):
                to_engine(message)  # type: ignore[arg-type]

        def prepare_slowly(request: GenerateRequest, unique_id: str) -> PreparedRequest:
            began.set()
            assert goes_on.wait(60)
            return prepare(request, unique_id)

        monkeypatch.setattr(engine._host, "send", send)
        monkeypatch.setattr(engine._adapters, "_send", send)
        monkeypatch.setattr(engine._input, "prepare", prepare_slowly)
        await engine.load_adapter("a", "/1")
        asking = asyncio.create_task(collect(engine, replace(ask(), model="a")))
        assert await asyncio.to_thread(began.wait, 10)
        await engine.load_adapter("a", "/2", is_replacing=True)
        goes_on.set()
        assert (await asking).is_finished
        (submitted,) = [message for message in sent if isinstance(message, Submit)]
        assert submitted.spec.adapter == "sha of /2"
