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

from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.core.clock import SystemClock
from headrace.core.config import Config, EngineConfig
from headrace.core.errors import ConfigError
from headrace.engine.model_text import load_text
from headrace.engine.started_model import read_config
from headrace.executor.memory import FREE_SHARE, Capacity, plan_capacity
from headrace.hub.model_store import ModelStore
from headrace.launch.engine_backend import EngineBackend, MakeSink, model_info
from headrace.launch.engine_start import start_engine
from headrace.launch.model_pool import ModelPool, PooledModel
from headrace.launch.supervised_engine import finish_engine
from headrace.models.registry import model_class
from headrace.ops.table import make_ops
from headrace.weights.weight_reader import open_weights

MIN_KV_SHARE = 0.25
"""Of its usual KV cache; a model that would get less is rather loaded in turn."""


def plan_model(path: Path, engine: EngineConfig, budget_bytes: int) -> Capacity:
    """The plan of a model that has the budget for itself.

    Raises: OutOfMemory, ConfigError, ModelFileError, UnsupportedFormat.
    """
    with closing(open_weights(path)) as reader:
        config = read_config(model_class(reader.architecture), reader)
        return plan_capacity(
            config, reader, make_ops("cpu"), engine, int(budget_bytes / FREE_SHARE)
        )


def share_memory(plans: Sequence[Capacity], budget_bytes: int) -> list[int]:
    """Bytes for each model. Those of all are within the budget where all fit at once."""
    fixed = [plan.total_bytes - plan.kv_bytes for plan in plans]
    usual = sum(plan.kv_bytes for plan in plans)
    left = budget_bytes - sum(fixed)
    share = min(1.0, left / usual)
    if share < MIN_KV_SHARE:
        return [min(plan.total_bytes, budget_bytes) for plan in plans]
    return [rest + int(share * plan.kv_bytes) for rest, plan in zip(fixed, plans, strict=True)]


def share_models(
    config: Config, names: Sequence[str], make_sink: MakeSink, budget_bytes: int
) -> tuple[ModelPool, tuple[str, ...]]:
    """A pool of models within the budget, and a line on each one's memory.

    Raises: ModelNotFound, ModelFileError, OutOfMemory, ConfigError.
    """
    if config.server.served_model_names:
        raise ConfigError(
            "server.served_model_names",
            ", ".join(config.server.served_model_names),
            "nothing where several models are served: each goes by its own name",
        )
    machine, clock = detect_machine(), SystemClock()
    engine_config = replace(resolve_engine(config.engine, machine), memory_bytes=None)
    found = [ModelStore(config.hub).resolve(name) for name in names]
    if len({local.name for local in found}) < len(found):
        raise ConfigError("MODEL", " ".join(names), "each model once")
    plans = [plan_model(local.path, engine_config, budget_bytes) for local in found]
    models = []
    for name, local, plan, share in zip(
        names, found, plans, share_memory(plans, budget_bytes), strict=True
    ):
        with closing(open_weights(local.path)) as reader:
            _, template = load_text(reader, config.hub.home / "tokenizers")
        limited = replace(config, engine=replace(config.engine, memory_bytes=share))

        def load(name: str = name, limited: Config = limited) -> EngineBackend:
            return finish_engine(start_engine(limited, name), make_sink)

        info = model_info(local, plan.max_model_len, template, clock)
        models.append(PooledModel(info, share, load))
    pool = ModelPool(models, budget_bytes, clock, config.server.idle_unload_s)
    return pool, tuple(f"{m.info.name}: {p.describe()}" for m, p in zip(models, plans, strict=True))
