"""Shard: which part of a model's matrices a rank has, and whether a model can be divided so.

In: tensors as the file has them, and the split that models/weight_spec.py declares. Out: a rank's
part of each, and the config of the model that it runs: fewer heads, a narrower feed-forward. Every
number of bits is kept; ranks only differ in the order of sums. Knows nothing of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.models.model_config import ModelConfig
from headrace.models.weight_spec import Split
from headrace.ops.protocol import GATE_UP_INTERLEAVE
from headrace.quant.format import QuantFormat
from headrace.quant.quant_tensor import QuantTensor

FIELD = "engine.tensor_parallel_size"


@frozen
class Shard:
    """Part `rank` of `num_ranks`.

    Heads come in equal parts; the columns of a feed-forward in whole units of `unit`, of which one
    rank may have one more than another.
    """

    rank: int = 0
    num_ranks: int = 1
    unit: int = GATE_UP_INTERLEAVE

    def span(self, size: int, unit: int = 1) -> tuple[int, int]:
        """Where a rank's part of `size` rows or columns begins and ends."""
        num_units = size // unit
        start, stop = (
            num_units * rank // self.num_ranks * unit for rank in (self.rank, self.rank + 1)
        )
        return start, stop

    def part(self, tensor: QuantTensor, split: Split, is_inner: bool = False) -> QuantTensor:
        """A rank's part of a matrix, or of a vector along its `out`.

        Shapes: [out, in] -> [out/ranks, in] or [out, in/ranks]; [out] -> [out/ranks].
        """
        if self.num_ranks == 1:
            return tensor
        is_matrix = len(tensor.shape) > 1
        size = tensor.shape[0 if split == "out" else -1]
        start, stop = self.span(size, self.unit if is_inner else 1)
        if split == "out" and is_matrix:
            return tensor.rows(start, stop)
        return tensor.columns(start, stop)

    def vocabulary(self, head: QuantTensor) -> QuantTensor:
        """A rank's rows of the head; the last one's are filled up, so that all have as many.

        Zero bytes are zeros in every format. Shapes: [V, C] -> [ceil(V/ranks), C].
        """
        if self.num_ranks == 1:
            return head
        size = -(-head.shape[0] // self.num_ranks)
        start = min(self.rank * size, head.shape[0])
        part = head.rows(start, min(start + size, head.shape[0]))
        filling = np.zeros((size - part.shape[0], part.data.shape[1]), np.uint8)
        data = np.concatenate([part.data, filling])
        return replace(part, shape=(size, head.shape[1]), data=data)


WHOLE = Shard()


@frozen
class RowFormat:
    """How the rows of a matrix are stored that ranks divide along `in`."""

    name: str
    num_columns: int
    format: QuantFormat
    is_inner: bool


def inner_unit(rows: list[RowFormat]) -> int:
    """What the columns of a feed-forward come in: blocks of its matrices, interleaved units."""
    blocks = [row.format.block_size for row in rows if row.is_inner]
    return max([GATE_UP_INTERLEAVE, *blocks])  # powers of 2


def divide(config: ModelConfig, shard: Shard) -> ModelConfig:
    """The numbers of the model that a rank runs; `check_division` has passed."""
    num_ranks = shard.num_ranks
    if num_ranks == 1:
        return config

    def inner(size: int) -> int:
        start, stop = shard.span(size, shard.unit)
        return stop - start

    mixture = config.mixture
    if mixture is not None:
        mixture = replace(
            mixture,
            intermediate_size=inner(mixture.intermediate_size),
            shared_intermediate_size=inner(mixture.shared_intermediate_size),
        )
    return replace(
        config,
        intermediate_size=inner(config.intermediate_size),
        attention=tuple(
            replace(
                spec,
                num_heads=spec.num_heads // num_ranks,
                num_kv_heads=spec.num_kv_heads // num_ranks,
            )
            for spec in config.attention
        ),
        mixture=mixture,
    )


def check_division(config: ModelConfig, rows: list[RowFormat], num_ranks: int) -> None:
    """Raises: ConfigError that says what does not divide, and which numbers of ranks there are."""
    reason = next(obstacles(config, rows, num_ranks), None) if num_ranks > 1 else None
    if reason is None:
        return
    most = config.attention[0].num_kv_heads
    allowed = [n for n in range(1, most + 1) if next(obstacles(config, rows, n), None) is None]
    raise ConfigError(FIELD, num_ranks, f"{', '.join(map(str, allowed))} with this model", reason)


def obstacles(config: ModelConfig, rows: list[RowFormat], num_ranks: int) -> Iterator[str]:
    """What keeps a model from being divided, a sentence each."""
    spec, mixture = config.attention[0], config.mixture
    for what, size in (("query heads", spec.num_heads), ("KV heads", spec.num_kv_heads)):
        if size % num_ranks:
            yield f"It has {size} {what}, which {num_ranks} ranks cannot share evenly."
    inner, unit = [config.intermediate_size], inner_unit(rows)
    if mixture is not None:
        inner = [mixture.intermediate_size, mixture.shared_intermediate_size]
    for size in inner:
        if size % unit or 0 < size < num_ranks * unit:
            yield (
                f"Its feed-forward of {size} columns is not {num_ranks} or more whole units of "
                f"{unit}."
            )
    for row in rows:
        block = row.format.block_size
        if not row.is_inner and row.num_columns % (num_ranks * block):
            yield (
                f"{row.name} is stored as {row.format.name}, in blocks of {block} along its "
                f"{row.num_columns} columns, and {num_ranks} ranks would cut blocks: take a file "
                "whose format has smaller ones (q8_0, q4_0) or none (bf16)."
            )
