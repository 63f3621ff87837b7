"""Several models that share one memory: planned here, loaded by their processes when asked for.

In: names and a budget. Out: a ModelPool and what each model may take. Weights are given; KV caches
share what they leave. Models that cannot all be in memory take turns, each with what it would have
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.core.backend import ModelInfo
from headrace.core.clock import SystemClock
from headrace.core.config import Config, EngineConfig
from headrace.core.units import format_bytes
from headrace.engine.encoder_model import read_encoder
from headrace.engine.model_text import load_text
from headrace.executor.load import read_config
from headrace.executor.memory import FREE_SHARE, plan_capacity
from headrace.hub.model_store import LocalModel, ModelStore
from headrace.launch.encoder_backend import encoder_info
from headrace.launch.engine_backend import EngineBackend, model_info
from headrace.launch.engine_start import start_engine
from headrace.launch.model_pool import ModelPool
from headrace.launch.pooled_model import PooledModel
from headrace.launch.supervised_engine import OpenEngine
from headrace.models.registry import ENCODERS, model_class
from headrace.ops.table import make_ops
from headrace.weights.weight_reader import open_weights

MIN_KV_SHARE = 0.25
"""Of its usual KV cache; a model that would get less is rather loaded in turn."""


class MemoryNeed(Protocol):
    """What a model takes. Units: bytes."""

    @property
    def total_bytes(self) -> int: ...

    @property
    def kv_bytes(self) -> int:
        """The part that may be less."""
        ...


def plan_model(
    local: LocalModel, engine: EngineConfig, budget_bytes: int, cache_dir: Path
) -> tuple[MemoryNeed, ModelInfo]:
    """A model that has the budget for itself: its plan, and what callers are told of it.

    Raises: OutOfMemory, ConfigError, ModelFileError, UnsupportedFormat.
    """
    with closing(open_weights(local.path)) as reader:
        if reader.architecture in ENCODERS:
            # A limit for answers says nothing of an encoder, whose own is rarely that long.
            facts = read_encoder(reader, replace(engine, max_model_len=None), make_ops("cpu"))
            return facts.plan, encoder_info(local, facts)
        config = read_config(model_class(reader.architecture), reader)
        free_bytes = int(budget_bytes / FREE_SHARE)
        room = engine.adapter_memory_bytes or 0
        plan = plan_capacity(
            config, reader, make_ops("cpu"), engine, free_bytes, adapter_bytes=room
        )
        _, template = load_text(reader, cache_dir, template_file=engine.chat_template)
    size = config.hidden_size
    return plan, model_info(local, plan.max_model_len, size, template)


def share_memory(plans: Sequence[MemoryNeed], budget_bytes: int) -> list[int]:
    """Bytes for each model. Those of all are within the budget where all fit at once."""
    fixed = [plan.total_bytes - plan.kv_bytes for plan in plans]
    usual = sum(plan.kv_bytes for plan in plans)
    left = budget_bytes - sum(fixed)
    share = min(1.0, left / usual) if usual else 1.0
    if share < MIN_KV_SHARE:
        return [min(plan.total_bytes, budget_bytes) for plan in plans]
    return [rest + int(share * plan.kv_bytes) for rest, plan in zip(fixed, plans, strict=True)]


def share_models(
    config: Config, names: Sequence[str], open_engine: OpenEngine, budget_bytes: int
) -> tuple[ModelPool, tuple[str, ...]]:
    """A pool of models within the budget, and a line on each one's memory.

    They are those that `check_several` lets pass.
    Raises: ModelNotFound, ModelFileError, OutOfMemory, ConfigError.
    """
    engine_config = replace(resolve_engine(config.engine, detect_machine()), memory_bytes=None)
    found = [ModelStore(config.hub).resolve(name) for name in names]
    cache_dir = config.hub.home / "tokenizers"
    planned = [plan_model(local, engine_config, budget_bytes, cache_dir) for local in found]
    shares = share_memory([plan for plan, _ in planned], budget_bytes)
    models = []
    for name, (_, info), share in zip(names, planned, shares, strict=True):
        limited = replace(config, engine=replace(config.engine, memory_bytes=share))
        if info.kind != "generate":
            limited = replace(limited, engine=replace(limited.engine, max_model_len=None))

        def load(name: str = name, limited: Config = limited) -> EngineBackend:
            return open_engine(start_engine(limited, name))

        models.append(PooledModel(info, share, load))
    pool = ModelPool(models, budget_bytes, SystemClock(), config.server.idle_unload_s)
    given = format_bytes(budget_bytes)
    return pool, tuple(f"{m.info.name}: {format_bytes(m.num_bytes)} of {given}" for m in models)
