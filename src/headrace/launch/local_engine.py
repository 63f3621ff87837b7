"""LocalEngine: a Backend around one model in this process, made of what packing leaves time for.

The second half of the composition root: text, scheduler and the asynchronous engine meet here.
"""

from __future__ import annotations

from pathlib import Path

from headrace.core.clock import Clock, SystemClock
from headrace.core.engine_config import EngineConfig, parse_adapters
from headrace.core.machine import Roof
from headrace.core.telemetry import MetricSink, NoMetrics
from headrace.engine.async_engine import AsyncEngine
from headrace.engine.build import LoadedModel, WorkPerToken, finish_model
from headrace.engine.engine import Engine, make_engine, scheduler_limits
from headrace.engine.engine_thread import EngineThread
from headrace.engine.input_processor import InputProcessor
from headrace.engine.started_model import Progress, StartedModel, kernels_name
from headrace.engine.stats import EngineStats
from headrace.executor.drafting_runner import DraftingRunner
from headrace.hub.model_store import LocalModel
from headrace.launch.engine_backend import EngineBackend, MakeSink, model_info
from headrace.ops.table import probe_roof


class LocalEngine(EngineBackend):
    """An engine in a thread of this process, with what measurements ask of it."""

    def __init__(
        self,
        engine: AsyncEngine,
        loaded: LoadedModel,
        config: EngineConfig,
        drafting: DraftingRunner | None = None,
    ) -> None:
        capacity = loaded.capacity
        environment = {
            "ops": kernels_name(loaded.ops, config),
            "num_threads": config.num_threads,
            "kv_cache_dtype": capacity.kv_cache_dtype,
        }
        super().__init__(engine, capacity.total_bytes, capacity.describe(), environment)
        self._loaded = loaded
        self._config = config
        self.drafting = drafting
        self.capacity = capacity
        self.chat_template = loaded.chat_template
        self.tokenizer = loaded.tokenizer
        self.vocab_size = loaded.config.vocab_size

    @property
    def work(self) -> WorkPerToken:
        """What a step moves and computes. Not after `stop`."""
        return self._loaded.work_per_token()

    async def start(self) -> None:
        """Start the threads and load the adapters of the settings.

        Raises: ModelFileError, UnsupportedFormat, OutOfMemory for one that cannot be loaded.
        """
        await super().start()
        known = {model.name for model in self.models()}
        for name, path in parse_adapters(self._config.adapters).items():
            if name not in known:
                await self.load_adapter(name, str(path))

    async def stop(self) -> None:
        """End what runs, stop the threads, unmap the weights. Calling it twice is harmless."""
        await super().stop()
        if self._loaded.ranks is not None:
            self._loaded.ranks.close()
        self._loaded.rules.close()
        self._loaded.reader.close()
        if self._loaded.draft_reader is not None:
            self._loaded.draft_reader.close()

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
    loaded = finish_model(started, cache_dir, progress, is_brief, config.chat_template)
    sink = make_sink(local.name) if make_sink is not None else NoMetrics()
    clock = SystemClock()
    engine = make_engine(
        config,
        loaded.capacity,
        loaded.runner,
        clock,
        loaded.drafter,
        loaded.adapters,
        loaded.ranks,
    )
    running = assemble(engine, loaded, local, config, sink, clock)
    return LocalEngine(running, loaded, config, engine.drafting)


def assemble(
    engine: Engine,
    loaded: LoadedModel,
    local: LocalModel,
    config: EngineConfig,
    sink: MetricSink,
    clock: Clock,
) -> AsyncEngine:
    """Text and threads around an engine."""
    capacity = loaded.capacity
    max_num_requests = scheduler_limits(config, capacity.max_model_len).max_num_requests
    info = model_info(
        local, capacity.max_model_len, loaded.config.hidden_size, loaded.chat_template
    )
    return AsyncEngine(
        EngineThread(engine, max_num_requests),
        InputProcessor(
            loaded.tokenizer,
            loaded.chat_template,
            capacity.max_model_len,
            loaded.config.vocab_size,
            loaded.rules.check,
            config.draft_acceptance,
        ),
        loaded.tokenizer,
        (info,),
        EngineStats(sink, capacity.num_blocks, capacity.block_size),
        clock,
        max_num_requests=max_num_requests,
    )
