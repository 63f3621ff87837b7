"""The KV cache of the reference: plain float arrays, and the writing of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from headrace.ops.protocol import AttentionSpec, KVCache
from headrace.ops.reference.norm import Floats
from headrace.ops.step_inputs import Int32


@dataclass(frozen=True, slots=True)
class KVLayer:
    """Keys and values of one layer. Shapes: k, v [N, K, B, D]."""

    k: Floats
    v: Floats


def kv_bytes_per_block(specs: Sequence[AttentionSpec], block_size: int, dtype: DTypeLike) -> int:
    """Bytes of one block over all layers."""
    elements = sum(2 * spec.num_kv_heads * block_size * spec.head_size for spec in specs)
    return elements * np.dtype(dtype).itemsize


def allocate_kv(
    specs: Sequence[AttentionSpec], num_blocks: int, block_size: int, dtype: DTypeLike
) -> KVCache:
    """Zeroed arrays for num_blocks blocks in each layer."""
    layers = []
    for spec in specs:
        shape = (num_blocks, spec.num_kv_heads, block_size, spec.head_size)
        layers.append(KVLayer(np.zeros(shape, dtype), np.zeros(shape, dtype)))
    num_bytes = kv_bytes_per_block(specs, block_size, dtype) * num_blocks
    return KVCache(tuple(layers), num_blocks, block_size, num_bytes)


def store_kv(qkv: Floats, layer: KVLayer, slot_mapping: Int32, spec: AttentionSpec) -> None:
    """Write the step's keys and values into their slots; -1 skips the row. Mutates: layer.

    Raises: IndexError for a slot outside the cache.
    """
    num_blocks, _, block_size, _ = layer.k.shape
    bad = slot_mapping[(slot_mapping < -1) | (slot_mapping >= num_blocks * block_size)]
    if bad.size:
        raise IndexError(f"slot {bad[0]} is outside the cache of {num_blocks * block_size} slots.")
    first_v = spec.num_heads + spec.num_kv_heads
    shape = (len(slot_mapping), first_v + spec.num_kv_heads, spec.head_size)
    rows = qkv.reshape(shape)  # [T, H+2K, D]
    wanted = np.flatnonzero(slot_mapping >= 0)
    blocks, offsets = np.divmod(slot_mapping[wanted], block_size)
    layer.k[blocks, :, offsets] = rows[wanted, spec.num_heads : first_v]
    layer.v[blocks, :, offsets] = rows[wanted, first_v:]
