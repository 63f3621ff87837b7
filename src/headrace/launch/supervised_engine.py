"""A Backend around a model whose engine runs in a process of its own.

Text is made here; the process has weights and steps. The text side loads while it packs.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.core.clock import Clock, SystemClock
from headrace.engine.async_engine import AsyncEngine
from headrace.engine.engine import scheduler_limits
from headrace.engine.input_processor import InputProcessor
from headrace.engine.model_text import load_text
from headrace.engine.stats import EngineStats
from headrace.engine.supervisor import Supervisor
from headrace.launch.engine_backend import EngineBackend, MakeSink, model_info
from headrace.launch.engine_start import Starting, StartingEngine
from headrace.weights.weight_reader import open_weights

OpenEngine = Callable[[Starting], EngineBackend]
"""finish_engine or open_encoder_backend, with what its server wants of it."""


def finish_engine(
    starting: StartingEngine, make_sink: MakeSink, clock: Clock | None = None
) -> EngineBackend:
    """Load the text side, wait for the process, join them. The engine is not started yet.

    Raises: what loading the model raises; the process is ended then.
    """
    try:
        return _finish(starting, make_sink, clock or SystemClock())
    except BaseException:
        starting.close()
        raise


def _finish(starting: StartingEngine, make_sink: MakeSink, clock: Clock) -> EngineBackend:
    local, config = starting.local, starting.order.engine
    reader = open_weights(local.path)
    try:
        tokenizer, template = load_text(
            reader, starting.cache_dir, template_file=config.chat_template
        )
    finally:
        reader.close()
    started = starting.wait()
    ready = started.ready
    stats = EngineStats(make_sink(local.name), ready.num_blocks, ready.block_size)
    supervisor = Supervisor(started, clock, stats.count_restart)
    engine = AsyncEngine(
        supervisor,
        InputProcessor(
            tokenizer,
            template,
            ready.max_model_len,
            ready.vocab_size,
            supervisor.check_form,
            config.draft_acceptance,
        ),
        tokenizer,
        (model_info(local, ready.max_model_len, ready.vector_size, template),),
        stats,
        clock,
        max_num_requests=scheduler_limits(config, ready.max_model_len).max_num_requests,
    )
    environment = {
        "ops": ready.ops,
        "num_threads": config.num_threads,
        "kv_cache_dtype": ready.kv_cache_dtype,
    }
    return EngineBackend(engine, ready.total_bytes, ready.memory_plan, environment)
