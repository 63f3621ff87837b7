"""LocalEngine: a Backend around one local model, made of what packing leaves time for.

The second half of the composition root: text, scheduler and the asynchronous engine meet here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.backend import Health, ModelInfo, ModelText
from headrace.core.clock import Clock, SystemClock
from headrace.core.config import EngineConfig
from headrace.core.machine import Roof
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.telemetry import MetricSink, NoMetrics
from headrace.engine.async_engine import AsyncEngine
from headrace.engine.build import LoadedModel, WorkPerToken, finish_model
from headrace.engine.engine import Engine
from headrace.engine.input_processor import InputProcessor
from headrace.engine.started_model import Progress, StartedModel
from headrace.engine.stats import EngineStats
from headrace.hub.model_store import LocalModel
from headrace.ops.table import probe_roof
from headrace.sched.scheduler import Scheduler
from headrace.sched.token_budget import SchedulerLimits
from headrace.text.reasoning import find_reasoning_marks

MakeSink = Callable[[str], MetricSink]


class LocalEngine:
    """A Backend around one local model, with what people ask of it: plan, work, roof."""

    def __init__(self, engine: AsyncEngine, loaded: LoadedModel, config: EngineConfig) -> None:
        self._engine = engine
        self._loaded = loaded
        self._config = config
        self.model_info = engine.models()[0]
        self.capacity = loaded.capacity
        self.memory_plan = loaded.capacity.describe()
        self.chat_template = loaded.chat_template
        self.tokenizer = loaded.tokenizer
        self.vocab_size = loaded.config.vocab_size

    @property
    def work(self) -> WorkPerToken:
        """What a step moves and computes. Not after `stop`."""
        return self._loaded.work_per_token()

    @property
    def environment(self) -> dict[str, Any]:
        """What computes, for records of measurements."""
        return {
            "ops": self._loaded.ops.name,
            "num_threads": self._config.num_threads,
            "kv_cache_dtype": self.capacity.kv_cache_dtype,
        }

    async def start(self) -> None:
        """Start the engine's threads."""
        await self._engine.start()

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those that run; False when some are left."""
        return await self._engine.drain(timeout_s)

    async def stop(self) -> None:
        """End what runs, stop the threads, unmap the weights. Calling it twice is harmless."""
        await self._engine.stop()
        self._loaded.rules.close()
        self._loaded.reader.close()

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend."""
        return self._engine.models()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend."""
        return await self._engine.generate(request)

    def text(self, model: str) -> ModelText:
        """See core.backend.Backend."""
        return self._engine.text(model)

    def health(self) -> Health:
        """See core.backend.Backend."""
        return self._engine.health()

    def probe_roof(self) -> Roof:
        """Measure the machine's read bandwidth and int8 peak now. Takes about a second."""
        return probe_roof(self._config.num_threads)


def finish_engine(
    started: StartedModel,
    local: LocalModel,
    config: EngineConfig,
    *,
    cache_dir: Path,
    progress: Progress | None = None,
    make_sink: MakeSink | None = None,
    is_brief: bool = False,
) -> LocalEngine:
    """Text, scheduler and threads around weights that are being packed; see `open_engine`."""
    loaded = finish_model(started, cache_dir, progress, is_brief)
    sink = make_sink(local.name) if make_sink is not None else NoMetrics()
    return LocalEngine(assemble(loaded, local, config, sink), loaded, config)


def assemble(
    loaded: LoadedModel,
    local: LocalModel,
    config: EngineConfig,
    sink: MetricSink,
    clock: Clock | None = None,
) -> AsyncEngine:
    """Scheduler, runner, text and threads around a loaded model."""
    clock = clock or SystemClock()
    capacity = loaded.capacity
    limits = SchedulerLimits(
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_num_seqs=config.max_num_seqs,
        max_mixed_prompt_tokens=config.max_mixed_prompt_tokens,
        max_mixed_background_tokens=config.max_mixed_background_tokens,
        max_waiting_requests=config.max_waiting_requests,
        max_model_len=capacity.max_model_len,
    )
    kv_cache = KVCacheManager(
        capacity.num_blocks, capacity.block_size, config.enable_prefix_caching
    )
    info = ModelInfo(
        name=local.name,
        max_model_len=capacity.max_model_len,
        created=int(clock.unix_s()),
        root=local.path.name,
        has_chat_template=loaded.chat_template is not None,
        template_variables=loaded.chat_template.variables if loaded.chat_template else frozenset(),
        has_reasoning=loaded.chat_template is not None
        and find_reasoning_marks(loaded.chat_template.source) is not None,
        vector_size=loaded.config.hidden_size,
    )
    return AsyncEngine(
        Engine(Scheduler(limits, kv_cache, clock, config.policy), loaded.runner),
        InputProcessor(
            loaded.tokenizer,
            loaded.chat_template,
            capacity.max_model_len,
            loaded.config.vocab_size,
            loaded.rules.check,
        ),
        loaded.tokenizer,
        (info,),
        EngineStats(sink, capacity.num_blocks, capacity.block_size),
        clock,
        max_num_requests=limits.max_num_requests,
    )
