"""An AsyncEngine over a FakeRunner, with the parts a test wants to look at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fakes.byte_tokenizer import VOCAB_SIZE, byte_tokenizer
from fakes.fake_runner import FakeRunner, Model
from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.backend import ModelInfo
from headrace.core.clock import Clock, SystemClock
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.telemetry import Metric
from headrace.engine.async_engine import AsyncEngine
from headrace.engine.engine import Engine
from headrace.engine.engine_thread import EngineThread
from headrace.engine.input_processor import InputProcessor
from headrace.engine.output_stream import merge
from headrace.engine.stats import EngineStats
from headrace.sched.scheduler import Scheduler
from headrace.sched.token_budget import SchedulerLimits
from headrace.text.chat_template import ChatTemplate

MODEL = "tiny"
BLOCK_SIZE = 4
TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"


class Recorder:
    """A MetricSink that keeps everything."""

    def __init__(self) -> None:
        self.gauges: dict[str, float] = {}
        self.counters: dict[str, float] = {}
        self.observed: dict[str, list[float]] = {}

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        assert (metric.kind, set(labels)) == ("gauge", set(metric.labels))
        self.gauges[metric.name] = value

    def add(self, metric: Metric, amount: float = 1, **labels: str) -> None:
        assert (metric.kind, set(labels)) == ("counter", set(metric.labels))
        name = ":".join((metric.name, *labels.values()))
        self.counters[name] = self.counters.get(name, 0) + amount

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        assert (metric.kind, set(labels)) == ("histogram", set(metric.labels))
        self.observed.setdefault(metric.name, []).append(value)


def script(text: str | list[int], after: int | None = None) -> Model:
    """A model that says this text, byte by byte, then `after` (the last byte again if None)."""
    token_ids = list(text.encode()) if isinstance(text, str) else text

    def model(ids: Any, new: Any) -> int:
        position = len(ids) - len(new.prompt_token_ids)
        last = token_ids[-1] if after is None else after
        return token_ids[position] if position < len(token_ids) else last

    return model


@dataclass
class Running:
    """What is inside a running engine."""

    backend: AsyncEngine
    runner: FakeRunner
    kv_cache: KVCacheManager
    scheduler: Scheduler
    metrics: Recorder

    async def until(self, is_true: Callable[[], bool], timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not is_true():
                await asyncio.sleep(0.001)

    async def until_idle(self) -> None:
        """Wait until nothing runs, then see that nothing is left."""
        await self.until(lambda: not self.backend._output.num_unfinished)
        await self.until(lambda: not self.scheduler.has_work)
        assert self.kv_cache.usage == 0.0
        assert not self.runner.known
        assert not self.backend._stats._newest_token_at_s
        self.scheduler.check_integrity()


@asynccontextmanager
async def running_engine(
    model: Model | None = None,
    *,
    num_blocks: int = 256,
    max_num_seqs: int = 8,
    max_waiting_requests: int = 100,
    max_model_len: int = 512,
    max_num_batched_tokens: int = 64,
    clock: Clock | None = None,
    check_form: Callable[[StructuredOutputs], None] | None = None,
    template: str = TEMPLATE,
) -> AsyncIterator[Running]:
    limits = SchedulerLimits(
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        max_waiting_requests=max_waiting_requests,
        max_model_len=max_model_len,
    )
    clock = clock or SystemClock()
    kv_cache = KVCacheManager(num_blocks, BLOCK_SIZE)
    scheduler = Scheduler(limits, kv_cache, clock)
    runner = FakeRunner(BLOCK_SIZE, VOCAB_SIZE - 2, model)
    tokenizer, metrics = byte_tokenizer(), Recorder()
    host = EngineThread(Engine(scheduler, runner), limits.max_num_requests)
    backend = AsyncEngine(
        host,
        InputProcessor(
            tokenizer, ChatTemplate(template, {}), scheduler.max_num_tokens, None, check_form
        ),
        tokenizer,
        [ModelInfo(MODEL, max_model_len, 0, MODEL, vector_size=3)],
        EngineStats(metrics, num_blocks, BLOCK_SIZE),
        clock,
        max_num_requests=limits.max_num_requests,
        stall_timeout_s=30.0,
    )
    await backend.start()
    try:
        yield Running(backend, runner, kv_cache, scheduler, metrics)
    finally:
        runner.gate.set()
        await backend.stop()
        assert not any(t.is_alive() for t in (host._thread, backend._output_thread) if t)


def ask(prompt: str | tuple[int, ...] = "hello", **changes: Any) -> GenerateRequest:
    """A request; names of SamplingParams go there."""
    sampling = {
        name: changes.pop(name) for name in list(changes) if name in SamplingParams.__slots__
    }
    sampling.setdefault("max_tokens", 16)
    sampling.setdefault("seed", 7)
    values = {"request_id": "r", "model": MODEL, "prompt": prompt}
    return GenerateRequest(**(values | changes), sampling=SamplingParams(**sampling))


async def collect(backend: AsyncEngine, request: GenerateRequest) -> RequestOutput:
    """The whole answer as one output."""
    whole: RequestOutput | None = None
    async for output in await backend.generate(request):
        whole = output if whole is None else merge(whole, output)
    assert whole is not None
    return whole
