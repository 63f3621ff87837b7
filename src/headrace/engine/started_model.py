"""From a model file and settings to weights that are being packed.

In: a local model, a resolved EngineConfig. Out: StartedModel: memory planned, KV cache allocated,
every weight on its way. Packing is C++ and goes on by itself while Python loads what `build.py`
needs to finish the model, so this imports none of it: no text, no scheduler, no event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.core.config import EngineConfig
from headrace.core.errors import OutOfMemory
from headrace.core.units import format_bytes
from headrace.executor.load import load_weights
from headrace.executor.memory import Capacity, kv_cache_dtype, plan_capacity
from headrace.executor.uneven_keys import mark_uneven_keys
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.models.registry import model_class
from headrace.ops.protocol import KVCache, Ops
from headrace.ops.table import make_ops
from headrace.weights.weight_reader import WeightReader, open_weights

Progress = Callable[[str, float], None]
"""Called with what is being done and the share done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class StartedModel:
    """A model that can run once its weights are packed, which its first op waits for."""

    model: Llama
    config: ModelConfig
    cache: KVCache
    capacity: Capacity
    ops: Ops
    reader: WeightReader
    is_eager: bool = False


def start_model(
    path: Path, engine: EngineConfig, free_bytes: int, progress: Progress | None = None
) -> StartedModel:
    """Read, plan, begin to pack.

    Raises: ModelFileError, UnsupportedFormat, MissingTensor, OutOfMemory, ConfigError.
    """
    report = progress or ignore_progress
    report("reading", 0.0)
    reader = open_weights(path)
    model = model_class(reader.architecture)
    config = read_config(model, reader)
    if kv_cache_dtype(engine) == "int8":
        config = mark_uneven_keys(config, reader)
    ops = make_ops(engine.device, isa=engine.isa, num_threads=engine.num_threads)
    on_device = ops.free_bytes()
    free = free_bytes if on_device is None else on_device
    capacity = plan_capacity(config, reader, ops, engine, free)
    weights = load_weights(
        model,
        config,
        reader,
        ops,
        capacity.max_model_len,
        progress=lambda done, layers: report("loading", done / (layers + 1)),
    )
    cache = allocate_cache(config, ops, capacity)
    return StartedModel(
        model(ops, config, weights), config, cache, capacity, ops, reader, engine.eager
    )


def allocate_cache(config: ModelConfig, ops: Ops, capacity: Capacity) -> KVCache:
    """The planned KV cache. Raises: OutOfMemory where the system does not give it."""
    try:
        return ops.allocate_kv(
            config.attention, capacity.num_blocks, capacity.block_size, capacity.kv_cache_dtype
        )
    except MemoryError:
        raise OutOfMemory(
            f"The system did not give {format_bytes(capacity.kv_bytes)} for the KV cache, although "
            "as much seemed free. A limit on this process (ulimit -v) may be lower: give a lower "
            "--memory, or raise the limit.",
            needed_bytes=capacity.total_bytes,
            available_bytes=0,
        ) from None


def read_config(model: type[Llama], reader: WeightReader) -> ModelConfig:
    """The architecture's numbers, from whichever kind of file. Raises: ModelFileError."""
    metadata: Mapping[str, Any] = reader.metadata
    if reader.kind == "gguf":
        return model.config_from_gguf(metadata)
    return model.config_from_huggingface(metadata)


def ignore_progress(what: str, share: float) -> None:
    """Progress nobody watches."""
