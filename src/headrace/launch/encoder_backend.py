"""From an encoder on this machine to a Backend, or to the bare model for scripts.

Its passes run in a thread of this process: kernels let go of the interpreter.
"""

from __future__ import annotations

from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.core.backend import ModelInfo
from headrace.core.clock import Clock, SystemClock
from headrace.core.config import Config
from headrace.core.telemetry import NoMetrics
from headrace.engine.encoder_engine import EncoderEngine
from headrace.engine.encoder_model import (
    EncoderFacts,
    EncoderModel,
    Progress,
    load_encoder_model,
)
from headrace.engine.encoder_stats import EncoderStats
from headrace.hub.model_store import LocalModel
from headrace.launch.engine_backend import EngineBackend, MakeSink


def open_encoder(
    local: LocalModel, config: Config, progress: Progress | None = None
) -> EncoderModel:
    """Load an encoder.

    Raises: ModelFileError, UnsupportedFormat, MissingTensor, OutOfMemory, ConfigError.
    """
    return load_encoder_model(local.path, resolve_engine(config.engine, detect_machine()), progress)


def open_encoder_backend(
    local: LocalModel,
    config: Config,
    clock: Clock | None = None,
    make_sink: MakeSink | None = None,
) -> EngineBackend:
    """Load an encoder to be served. It is not started yet. Raises: what `open_encoder` raises."""
    clock = clock or SystemClock()
    model = open_encoder(local, config)
    facts = model.facts
    engine = EncoderEngine(
        model,
        encoder_info(local, facts),
        clock,
        EncoderStats(make_sink(local.name) if make_sink is not None else NoMetrics()),
        max_waiting_requests=config.engine.max_waiting_requests,
        policy=config.engine.policy,
    )
    environment = {
        "ops": f"{model.ops_name}, {facts.plan.dtype}",
        "num_threads": resolve_engine(config.engine, detect_machine()).num_threads,
        "kv_cache_dtype": "none",
    }
    plan = facts.plan
    return EngineBackend(engine, plan.total_bytes, plan.describe(), environment)


def encoder_info(local: LocalModel, facts: EncoderFacts) -> ModelInfo:
    """What callers are told of an encoder."""
    config, sentence = facts.config, facts.sentence
    return ModelInfo(
        name=local.name,
        max_model_len=facts.plan.max_model_len,
        created=local.changed_s,
        root=local.path.name,
        has_chat_template=False,
        vector_size=config.hidden_size,
        kind="classify" if config.labels else "embed",
        pooling=sentence.pooling,
        prompts=sentence.prompts,
        default_prompt_name=sentence.default_prompt_name,
        labels=config.labels,
        problem_type=config.problem_type,
    )
