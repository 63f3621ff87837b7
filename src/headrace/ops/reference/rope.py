"""Rotary position embedding, in numpy: the table of angles and the rotation of q and k heads."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from headrace.core.frozen import frozen
from headrace.ops.protocol import AttentionSpec, RopeParams
from headrace.ops.reference.norm import Floats, rms_norm
from headrace.ops.step_inputs import Int32

POSITIONS_AT_ONCE = 1024
"""What is worked on stays in the cache, and whoever fills a table as it is read waits 1 ms."""


@frozen
class RopeTable:
    """cos and sin of every position. Shapes: cos, sin [max_positions, rotary_size/2]."""

    cos: Floats
    sin: Floats
    rotary_size: int


def rope_table(params: RopeParams, dtype: DTypeLike = np.float32) -> RopeTable:
    """Angles in float64, kept as dtype.

    Raises: ValueError for an odd rotary_size or factors of another length.
    Source: arXiv 2104.09864; factors as in Llama 3 and LongRoPE.
    """
    table = empty_table(params, dtype)
    for start in range(0, params.max_positions, POSITIONS_AT_ONCE):
        fill_table(table, params, start)
    return table


def inverse_frequencies(params: RopeParams) -> NDArray[np.float64]:
    """Angle per position of each pair. Shapes: [rotary_size/2]. Raises: as rope_table."""
    half, odd = divmod(params.rotary_size, 2)
    if odd or half < 1:
        raise ValueError(f"rotary_size is {params.rotary_size}; allowed: even numbers from 2.")
    inverse = params.theta ** (-np.arange(half, dtype=np.float64) / half)
    if params.factors is not None:
        if len(params.factors) != half:
            raise ValueError(f"rope factors: {len(params.factors)} given, {half} needed.")
        inverse = inverse / np.asarray(params.factors, dtype=np.float64)
    return inverse


def empty_table(params: RopeParams, dtype: DTypeLike = np.float32) -> RopeTable:
    """A table whose values `fill_table` writes. Raises: as rope_table."""
    inverse_frequencies(params)
    shape = (params.max_positions, params.rotary_size // 2)
    return RopeTable(np.empty(shape, dtype), np.empty(shape, dtype), params.rotary_size)


def fill_table(table: RopeTable, params: RopeParams, start: int) -> None:
    """Compute the next POSITIONS_AT_ONCE from a multiple of them on. Mutates: table."""
    stop = min(start + POSITIONS_AT_ONCE, params.max_positions)
    angles = np.arange(start, stop, dtype=np.float64)[:, None] * inverse_frequencies(params)
    table.cos[start:stop] = np.cos(angles) * params.attention_factor
    table.sin[start:stop] = np.sin(angles) * params.attention_factor


def rope(
    qkv: Floats,
    positions: Int32,
    table: RopeTable,
    spec: AttentionSpec,
    q_norm: Floats | None,
    k_norm: Floats | None,
    eps: float,
) -> None:
    """Norm where weights are given, then rotate q and k heads. Mutates: qkv [T, (H+2K)*D].

    Raises: IndexError for a position outside the table.
    """
    max_positions = table.cos.shape[0]
    bad = positions[(positions < 0) | (positions >= max_positions)]
    if bad.size:
        raise IndexError(f"position {bad[0]} is outside the rope table of {max_positions}.")
    end = spec.num_heads + spec.num_kv_heads
    shape = (len(positions), end + spec.num_kv_heads, spec.head_size)
    rows = qkv.reshape(shape)  # [T, H+2K, D]
    for weight, heads in ((q_norm, slice(0, spec.num_heads)), (k_norm, slice(spec.num_heads, end))):
        if weight is not None:
            rows[:, heads] = rms_norm(rows[:, heads], weight, eps)
    half = table.rotary_size // 2
    cos, sin = table.cos[positions][:, None], table.sin[positions][:, None]  # [T, 1, half]
    first = rows[:, :end, :half].copy()
    second = rows[:, :end, half : 2 * half].copy()
    rows[:, :end, :half] = first * cos - second * sin
    rows[:, :end, half : 2 * half] = second * cos + first * sin
