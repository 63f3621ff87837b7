"""Rotary embedding with optional norms of q and k heads: one program per token and group of heads.

A thread holds both halves of its pairs and a program is one warp, so rotating in place needs no
barrier; of several warps two could hold the same pairs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from headrace.core.frozen import frozen
from headrace.ops.protocol import AttentionSpec

HEADS_AT_ONCE = 4


@frozen
class RopeTable:
    """cos and sin of every position on the device. Shapes: [max_positions, rotary_size/2]."""

    cos: torch.Tensor
    sin: torch.Tensor
    rotary_size: int


@triton.jit
def rope_kernel(
    qkv, positions, cos, sin, q_norm, k_norm, eps, num_heads, num_rotated, row_width,
    D: tl.constexpr, HALF: tl.constexpr, HALF_PAD: tl.constexpr, REST_PAD: tl.constexpr,
    HEADS: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    position = tl.load(positions + token).to(tl.int64)
    start = qkv + token.to(tl.int64) * row_width + head[:, None] * D
    pair = tl.arange(0, HALF_PAD)[None, :]
    is_pair = (head[:, None] < num_rotated) & (pair < HALF)
    first = tl.load(start + pair, mask=is_pair, other=0.0).to(tl.float32)  # [HEADS, HALF_PAD]
    second = tl.load(start + HALF + pair, mask=is_pair, other=0.0).to(tl.float32)
    if HAS_NORM:
        squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
        norm = tl.where(head[:, None] < num_heads, q_norm, k_norm)
        if REST_PAD > 0:
            still = 2 * HALF + tl.arange(0, REST_PAD)[None, :]
            is_still = (head[:, None] < num_rotated) & (still < D)
            rest = tl.load(start + still, mask=is_still, other=0.0).to(tl.float32)
            squares += tl.sum(rest * rest, axis=1)
        root = tl.sqrt(squares / D + eps)[:, None]
        first = first / root * tl.load(norm + pair, mask=is_pair, other=0.0)
        second = second / root * tl.load(norm + HALF + pair, mask=is_pair, other=0.0)
        if REST_PAD > 0:
            rest = rest / root * tl.load(norm + still, mask=is_still, other=0.0)
            tl.store(start + still, rest.to(qkv.dtype.element_ty), mask=is_still)
    c = tl.load(cos + position * HALF + pair, mask=pair < HALF, other=0.0)
    s = tl.load(sin + position * HALF + pair, mask=pair < HALF, other=0.0)
    turned = first * c - second * s
    tl.store(start + pair, turned.to(qkv.dtype.element_ty), mask=is_pair)
    turned = second * c + first * s
    tl.store(start + HALF + pair, turned.to(qkv.dtype.element_ty), mask=is_pair)


def rope(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    table: RopeTable,
    spec: AttentionSpec,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    eps: float,
) -> None:
    """Norm where both weights are given, then rotate q and k heads. Mutates: qkv [T, (H+2K)*D]."""
    num_tokens = qkv.shape[0]
    if not num_tokens:
        return
    half = table.rotary_size // 2
    rest = spec.head_size - 2 * half
    num_rotated = spec.num_heads + spec.num_kv_heads
    rope_kernel[(num_tokens, triton.cdiv(num_rotated, HEADS_AT_ONCE))](
        qkv, positions, table.cos, table.sin,
        table.cos if q_norm is None else q_norm, table.cos if k_norm is None else k_norm, eps,
        spec.num_heads, num_rotated, spec.qkv_width,
        D=spec.head_size, HALF=half, HALF_PAD=triton.next_power_of_2(half),
        REST_PAD=triton.next_power_of_2(rest) if rest else 0, HEADS=HEADS_AT_ONCE,
        HAS_NORM=q_norm is not None, num_warps=1,
    )  # fmt: skip
