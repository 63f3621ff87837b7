"""From a model file and settings to weights that are being packed.

In: a local model, a resolved EngineConfig. Out: StartedModel: memory planned, KV cache allocated,
every weight on its way. Packing is C++ and goes on by itself while Python loads what `build.py`
needs to finish the model, so this imports none of it: no text, no scheduler, no event loop.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from headrace.core.engine_config import CanaryMode, EngineConfig
from headrace.core.errors import OutOfMemory
from headrace.core.frozen import frozen
from headrace.core.units import format_bytes
from headrace.engine.started_draft import StartedDraft, open_draft
from headrace.executor.adapter_table import adapter_room
from headrace.executor.canary import Reference, check_canary, read_reference
from headrace.executor.load import ModelTensors, load_weights, read_config, row_formats
from headrace.executor.memory import NO_DRAFT, Capacity, kv_cache_dtype, plan_capacity
from headrace.executor.shard import WHOLE, Shard, check_division, divide, inner_unit
from headrace.executor.uneven_keys import mark_uneven_keys
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.models.registry import model_class
from headrace.ops.protocol import KVCache, Ops
from headrace.ops.rank_group import RankGroup
from headrace.ops.table import make_ops, make_rank_ops
from headrace.weights.weight_reader import WeightReader, open_weights

if TYPE_CHECKING:
    from headrace.engine.ranks import Ranks

# Loaded where a model is divided, and where its layers are rounded.
_RANKS = "headrace.engine.ranks"
_ROUNDING = "headrace.weights.rounded_reader"

Progress = Callable[[str, float], None]
"""Called with what is being done and the share done, 0 to 1."""


class Place(Protocol):
    """Which rank this process is, and how it comes to terms with the others."""

    rank: int

    def agree(self, num_blocks: int, group: RankGroup) -> int:
        """The blocks of KV cache that every rank has room for; all have joined the group then."""
        ...


@frozen
class StartedModel:
    """A model that can run once its weights are packed, which its first op waits for.

    `config` has the numbers of the file, `model.config` of what this process has of it. `ranks` are
    the processes that have the rest.
    """

    model: Llama
    config: ModelConfig
    cache: KVCache
    capacity: Capacity
    ops: Ops
    reader: WeightReader
    is_eager: bool = False
    draft: StartedDraft | None = None
    ranks: Ranks | None = None
    canary: CanaryMode = "off"
    reference: Reference | None = None

    @property
    def has_canary(self) -> bool:
        """Whether the model is to be asked a text before it answers anybody."""
        return self.canary != "off" and self.reference is not None

    def finish_packing(self) -> None:
        """Wait until all is packed, ask the canary, and give the pages of the files back.

        Raises: QualityDrift where that is to be refused; what keeps another rank from starting.
        """
        self.ops.finish_packing()
        if self.ranks is not None:
            self.ranks.meet()
        check_canary(
            self.model,
            self.cache,
            self.reference,
            self.canary,
            block_size=self.capacity.block_size,
            max_model_len=self.capacity.max_model_len,
        )
        self.reader.release()
        if self.draft is not None:
            self.draft.reader.release()

    def close(self) -> None:
        """End the processes of other ranks, of a model that is not going to run."""
        if self.ranks is not None:
            self.ranks.close()


def start_model(
    path: Path,
    engine: EngineConfig,
    free_bytes: int,
    progress: Progress | None = None,
    draft_path: Path | None = None,
    place: Place | None = None,
    is_first: bool = True,
) -> StartedModel:
    """Read, plan, begin to pack. `draft_path`: of engine.draft_model, where that is wanted.

    `is_first`: adapters of the settings that cannot be read are an error, before weights are.
    Of a divided model this is rank 0, which starts the others, unless it is given its `place`.
    Raises: ModelFileError, UnsupportedFormat, MissingTensor, OutOfMemory, ConfigError, EngineDied.
    """
    report = progress or ignore_progress
    report("reading", 0.0)
    reader = open_rounded(path, engine)
    model = model_class(reader.architecture)
    config = read_config(model, reader)
    is_asked = engine.canary != "off"
    reference = read_reference(reader.metadata, path, config.vocab_size) if is_asked else None
    if kv_cache_dtype(engine) == "int8":
        config = mark_uneven_keys(config, reader)
    num_ranks = engine.tensor_parallel_size
    rows = row_formats(ModelTensors.open(reader, config)) if num_ranks > 1 else []
    check_division(config, rows, num_ranks)
    with _other_ranks(path, engine, free_bytes, place) as ranks:
        place = place or ranks
        ops, group = _open_ops(engine, place)
        shard = WHOLE if place is None else Shard(place.rank, num_ranks, inner_unit(rows))
        own_config = divide(config, shard)
        on_device = ops.free_bytes()
        free = free_bytes // num_ranks if on_device is None else on_device
        draft = draft_path and open_draft(draft_path, reader, config.vocab_size, engine)
        wanted_len = engine.max_model_len or config.max_model_len
        need = draft.need(ops, engine, wanted_len) if draft else NO_DRAFT
        adapter_bytes = adapter_room(engine, model, config, reader.architecture, ops, is_first)
        # Of the last rank's part, the largest: who starts all again keeps rank 0's numbers for all.
        largest = divide(config, replace(shard, rank=shard.num_ranks - 1))
        capacity = plan_capacity(largest, reader, ops, engine, free, need, adapter_bytes)
        if place is not None and group is not None:
            capacity = capacity.with_blocks(place.agree(capacity.num_blocks, group))
        weights = load_weights(
            model,
            config,
            reader,
            ops,
            capacity.max_model_len,
            progress=lambda done, layers: report("loading", done / (layers + 1)),
            shard=shard,
        )
        cache = allocate_cache(own_config, ops, capacity)
        started_draft = None
        if draft:
            draft_cache = allocate_cache(draft.config, ops, capacity)
            started_draft = draft.start(ops, capacity, draft_cache, need.weights_bytes)
        return StartedModel(
            model(ops, own_config, weights),
            config,
            cache,
            capacity,
            ops,
            reader,
            is_eager=engine.eager,
            draft=started_draft,
            ranks=ranks,
            canary=engine.canary,
            reference=reference,
        )


@contextmanager
def _other_ranks(
    path: Path, engine: EngineConfig, free_bytes: int, place: Place | None
) -> Iterator[Ranks | None]:
    """The processes of the other ranks, if this is to be rank 0 of several; ended on an error."""
    if engine.tensor_parallel_size == 1 or place is not None:
        yield None
        return
    ranks: Ranks = importlib.import_module(_RANKS).Ranks(path, engine, free_bytes)
    try:
        yield ranks
    except BaseException:
        ranks.close()
        raise


def _open_ops(engine: EngineConfig, place: Place | None) -> tuple[Ops, RankGroup | None]:
    if place is not None:
        return make_rank_ops(engine.device, place.rank, engine.tensor_parallel_size)
    return make_ops(engine.device, isa=engine.isa, num_threads=engine.num_threads), None


def open_rounded(path: Path, engine: EngineConfig) -> WeightReader:
    """The model's file, its layers rounded as it is read where the settings say so.

    Raises: ModelFileError, UnsupportedFormat; ConfigError where rounding would be none.
    """
    reader = open_weights(path)
    if engine.quantization == "none":
        return reader
    rounded: WeightReader = importlib.import_module(_ROUNDING).round_layers(reader, engine)
    return rounded


def kernels_name(ops: Ops, engine: EngineConfig) -> str:
    """What receipts call the kernels: how weights are rounded at load is part of it."""
    return ops.name if engine.quantization == "none" else f"{ops.name}-{engine.quantization}"


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


def ignore_progress(what: str, share: float) -> None:
    """Progress nobody watches."""
