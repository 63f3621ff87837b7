"""The KV cache of the reference: floats, int8 or float8, and the writing of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from headrace.core.frozen import frozen
from headrace.ops.protocol import AttentionSpec, KVCache, KVCacheDtype
from headrace.ops.reference.norm import Floats
from headrace.ops.step_inputs import Float32, Int32
from headrace.quant import float8


@frozen
class FloatHeads:
    """Keys or values as they are. Shapes: data [N, K, B, D]."""

    data: Floats

    def write(self, blocks: Int32, offsets: Int32, rows: Floats) -> None:
        """Shapes: blocks, offsets [X]; rows [X, K, D]. Mutates: self."""
        self.data[blocks, :, offsets] = rows

    def read(self, blocks: Int32) -> Floats:
        """Shapes: blocks [P] -> [P, K, B, D]."""
        return self.data[blocks]


@frozen
class Int8Heads:
    """Keys or values as integers of -127 .. 127 in units of a scale per token and head.

    Shapes: data [N, K, B, D] int8; scales [N, K, B] float32. `dtype` is what `read` gives.
    """

    data: NDArray[np.int8]
    scales: Float32
    dtype: np.dtype[Any]

    def write(self, blocks: Int32, offsets: Int32, rows: Floats) -> None:
        """Round to the nearest unit, ties to even. Mutates: self."""
        self.data[blocks, :, offsets], self.scales[blocks, :, offsets] = quantize_heads(rows)

    def read(self, blocks: Int32) -> Floats:
        """Shapes: blocks [P] -> [P, K, B, D]."""
        exact: Floats = self.data[blocks].astype(self.dtype)
        exact *= self.scales[blocks][..., None].astype(self.dtype)
        return exact


@frozen
class Float8Heads:
    """Keys or values as floats of 8 bits in units of a scale per token and head.

    Shapes: data [N, K, B, D] uint8; scales [N, K, B] float32. `dtype` is what `read` gives.
    """

    data: NDArray[np.uint8]
    scales: Float32
    dtype: np.dtype[Any]

    def write(self, blocks: Int32, offsets: Int32, rows: Floats) -> None:
        """Round to the nearest, ties to even; damage is seen by its scale. Mutates: self."""
        x = rows.astype(np.float32)
        is_damaged = ~np.isfinite(np.abs(x).max(axis=-1, keepdims=True))
        codes, scales = float8.encode_rows(np.where(is_damaged, np.float32(0), x))
        self.data[blocks, :, offsets] = codes
        self.scales[blocks, :, offsets] = np.where(is_damaged[..., 0], np.float32(np.nan), scales)

    def read(self, blocks: Int32) -> Floats:
        """Shapes: blocks [P] -> [P, K, B, D]."""
        exact: Floats = float8.VALUES[self.data[blocks]].astype(self.dtype)
        exact *= self.scales[blocks][..., None].astype(self.dtype)
        return exact


TINIEST = np.float32(2.0**-100)
"""Heads without a larger value become zero: 127 over it would not be finite."""


def quantize_heads(rows: Floats) -> tuple[NDArray[np.int8], Float32]:
    """Integers and scales, as C++ rounds them. Shapes: [..., D] -> [..., D] int8, [...].

    The scale is a NaN where a value is not finite, so that damage is seen and not rounded away.
    """
    x = rows.astype(np.float32)
    top = np.abs(x).max(axis=-1)
    is_damaged = ~np.isfinite(top)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = np.where(top > TINIEST, np.float32(127) / top, np.float32(0))
        rounded = np.rint(x * factor[..., None])
    rounded[is_damaged] = 0
    scales = np.where(is_damaged, np.float32(np.nan), top / np.float32(127))
    return rounded.astype(np.int8), scales.astype(np.float32)


Heads = FloatHeads | Int8Heads | Float8Heads


@frozen
class KVLayer:
    """Keys and values of one layer. Shapes: [N, K, B, D] each."""

    k: Heads
    v: Heads

    @property
    def shape(self) -> tuple[int, int, int, int]:
        num_blocks, num_kv_heads, block_size, head_size = self.k.data.shape
        return num_blocks, num_kv_heads, block_size, head_size

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Blocks (from, to), whole. Mutates: self."""
        for half in (self.k, self.v):
            parts = (half.data,) if isinstance(half, FloatHeads) else (half.data, half.scales)
            for source, block in pairs:
                for part in parts:
                    part[block] = part[source]


def kv_bytes_per_block(
    specs: Sequence[AttentionSpec], block_size: int, dtype: DTypeLike, kv_dtype: KVCacheDtype
) -> int:
    """Bytes of one block over all layers."""
    total = 0
    for spec in specs:
        for half in _dtypes(spec, kv_dtype):
            is_wide = half == "bf16"
            head = spec.head_size * np.dtype(dtype).itemsize if is_wide else spec.head_size + 4
            total += spec.num_kv_heads * block_size * head
    return total


def allocate_kv(
    specs: Sequence[AttentionSpec],
    num_blocks: int,
    block_size: int,
    dtype: DTypeLike,
    kv_dtype: KVCacheDtype,
) -> KVCache:
    """Zeroed arrays for num_blocks blocks in each layer."""
    layers = []
    for spec in specs:
        shape = (num_blocks, spec.num_kv_heads, block_size, spec.head_size)
        layers.append(
            KVLayer(*(_make_heads(shape, dtype, half) for half in _dtypes(spec, kv_dtype)))
        )
    num_bytes = kv_bytes_per_block(specs, block_size, dtype, kv_dtype) * num_blocks
    return KVCache(tuple(layers), num_blocks, block_size, num_bytes)


def _dtypes(spec: AttentionSpec, kv_dtype: KVCacheDtype) -> tuple[KVCacheDtype, KVCacheDtype]:
    """Of keys and of values. Floats of 8 bits hold uneven keys: their error is relative."""
    is_wide = kv_dtype == "int8" and spec.has_uneven_keys
    return "bf16" if is_wide else kv_dtype, kv_dtype


def _make_heads(shape: tuple[int, ...], dtype: DTypeLike, half: KVCacheDtype) -> Heads:
    if half == "bf16":
        return FloatHeads(np.zeros(shape, dtype))
    scales = np.zeros(shape[:-1], np.float32)
    if half == "int8":
        return Int8Heads(np.zeros(shape, np.int8), scales, np.dtype(dtype))
    return Float8Heads(np.zeros(shape, np.uint8), scales, np.dtype(dtype))


def store_kv(
    qkv: Floats,
    layer: KVLayer,
    slot_mapping: Int32,
    spec: AttentionSpec,
    key_shift: Floats | None = None,
) -> None:
    """Write the step's keys, less key_shift, and values; slot -1 skips the row. Mutates: layer.

    Raises: IndexError for a slot outside the cache.
    """
    num_blocks, _, block_size, _ = layer.shape
    bad = slot_mapping[(slot_mapping < -1) | (slot_mapping >= num_blocks * block_size)]
    if bad.size:
        raise IndexError(f"slot {bad[0]} is outside the cache of {num_blocks * block_size} slots.")
    first_v = spec.num_heads + spec.num_kv_heads
    shape = (len(slot_mapping), first_v + spec.num_kv_heads, spec.head_size)
    rows = qkv.reshape(shape)  # [T, H+2K, D]
    wanted = np.flatnonzero(slot_mapping >= 0)
    blocks, offsets = np.divmod(slot_mapping[wanted], block_size)
    keys = rows[wanted, spec.num_heads : first_v]
    if key_shift is not None:
        keys = keys - key_shift.reshape(spec.num_kv_heads, spec.head_size)
    layer.k.write(blocks, offsets, keys)
    layer.v.write(blocks, offsets, rows[wanted, first_v:])
