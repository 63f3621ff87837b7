"""Drives a headrace model step by step over a shuffled block table, as the engine would.

In: a model file and ops. Out: logits of every row, for any cut of the tokens into steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.core.step import ScheduledRequest
from headrace.executor.input_batch import flatten
from headrace.executor.load import load_weights
from headrace.executor.shard import WHOLE, Shard, divide
from headrace.executor.uneven_keys import mark_uneven_keys
from headrace.models.llama import Llama
from headrace.models.registry import model_class
from headrace.ops.protocol import KVCache, KVCacheDtype, Ops
from headrace.ops.reference.store_kv import Float8Heads, FloatHeads, Int8Heads
from headrace.weights.rounded_reader import RoundedReader
from headrace.weights.weight_reader import open_weights


@dataclass
class Piece:
    """The tokens a request computes in a step."""

    name: str
    token_ids: Sequence[int]


def load_model(
    path: Path,
    ops: Ops,
    max_positions: int | None = None,
    head_rows: int | None = None,
    shard: Shard = WHOLE,
    is_rounded: bool = False,
) -> Llama:
    """Open, configure and pack a model file, or a rank's part of it, as the launcher does.

    `is_rounded`: its layers to float8.
    """
    opened = open_weights(path)
    reader = RoundedReader(opened) if is_rounded else opened
    try:
        model_type = model_class(reader.architecture)
        read = (
            model_type.config_from_gguf
            if reader.kind == "gguf"
            else model_type.config_from_huggingface
        )
        config = read(reader.metadata)
        config = mark_uneven_keys(config, reader)  # for caches of int8
        length = max_positions or config.max_model_len
        weights = load_weights(
            model_type, config, reader, ops, length, head_rows=head_rows, shard=shard
        )
        return model_type(ops, divide(config, shard), weights)
    finally:
        reader.close()


class Driver:
    """A model with a cache whose free blocks are dealt out in random order.

    Blocks nobody wrote are full of NaN where the cache is plain arrays, so a read of one shows.
    """

    def __init__(
        self,
        model: Llama,
        num_blocks: int = 24,
        block_size: int = 16,
        seed: int = 3,
        kv_cache_dtype: KVCacheDtype = "bf16",
    ) -> None:
        self.model, self.block_size = model, block_size
        self.cache: KVCache = model.ops.allocate_kv(
            model.config.attention, num_blocks, block_size, kv_cache_dtype
        )
        for layer in self.cache.layers:
            for half in (getattr(layer, "k", None), getattr(layer, "v", None)):
                if isinstance(half, FloatHeads):
                    half.data[...] = np.nan
                elif isinstance(half, Int8Heads | Float8Heads):
                    half.scales[...] = np.nan
        self._free = np.random.default_rng(seed).permutation(num_blocks).tolist()
        self._blocks: dict[str, list[int]] = {}
        self._lengths: dict[str, int] = {}

    def step(self, pieces: Sequence[Piece]) -> dict[str, NDArray[np.float32]]:
        """One forward over several requests; logits of all their rows. Shapes: -> [T_r, V]."""
        scheduled = [self._schedule(piece) for piece in pieces]
        inputs = flatten(scheduled, self.block_size)
        hidden = self.model.forward(inputs, self.cache)
        rows = np.arange(len(inputs.logit_rows), dtype=np.int32)
        result = np.array(self.model.ops.to_host(self.model.logits(hidden, rows)))
        starts = inputs.query_start
        return {piece.name: result[starts[i] : starts[i + 1]] for i, piece in enumerate(pieces)}

    def run(
        self, token_ids: Sequence[int], chunks: Sequence[int], name: str = "a"
    ) -> NDArray[np.float32]:
        """Logits of all rows, computed in chunks; the last length repeats. Shapes: -> [T, V]."""
        rows, start, sizes = [], 0, list(chunks)
        while start < len(token_ids):
            size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
            rows.append(self.step([Piece(name, token_ids[start : start + size])])[name])
            start += size
        return np.concatenate(rows)

    def _schedule(self, piece: Piece) -> ScheduledRequest:
        blocks = self._blocks.setdefault(piece.name, [])
        computed = self._lengths.get(piece.name, 0)
        length = computed + len(piece.token_ids)
        while len(blocks) * self.block_size < length:
            blocks.append(self._free.pop())
        self._lengths[piece.name] = length
        return ScheduledRequest(
            request_id=piece.name,
            token_ids=list(piece.token_ids),
            num_computed_tokens=computed,
            block_ids=list(blocks),
            num_logit_rows=len(piece.token_ids),
            is_sampled=False,
        )
