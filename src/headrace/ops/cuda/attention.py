"""Paged causal attention: one kernel for decode rows, split over the cache, and for chunks.

A tile holds BLOCK_M rows: the query heads that share a KV head, times as many tokens as fit. A
decode program reads one part of one request's cache; `combine_kernel` merges the parts. Grids hang
on shapes alone and lengths are read on the device, so that a captured launch serves every step.
Source: arXiv 2307.08691 (tiles), 2309.06180 (paging), flash-decoding (splits).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from headrace.ops.cuda.device_step import DeviceStep
from headrace.ops.cuda.float8 import widen
from headrace.ops.cuda.store_kv import KVLayer
from headrace.ops.protocol import AttentionSpec

PROGRAMS_PER_SM = 4
MIN_SPLIT_TOKENS = 256
MAX_SPLITS = 64


@triton.jit
def _find_request(query_start, tile, num_requests, BLOCK_Q: tl.constexpr):
    """The request of a tile when each has query_len // BLOCK_Q + 1 tiles at most."""
    low = 0
    high = num_requests
    while low < high:
        middle = (low + high) // 2
        if tl.load(query_start + middle) // BLOCK_Q + middle <= tile:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def _attend(
    acc, top, total, q, start, end, k_data, v_data, k_scales, v_scales, blocks, kv_head,
    num_kv_heads, position, is_row, scale, soft_cap, window,
    D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr,
    K_SCALED: tl.constexpr, V_SCALED: tl.constexpr, HAS_CAP: tl.constexpr, HAS_WINDOW: tl.constexpr,
    IS_EDGE: tl.constexpr,
):  # fmt: skip
    """Take BLOCK_N cached tokens into the running softmax; without IS_EDGE every row sees all."""
    n = start + tl.arange(0, BLOCK_N)
    is_cached = n < end
    d = tl.arange(0, D_PAD)
    block = tl.load(blocks + n // BLOCK_SIZE, mask=is_cached, other=0).to(tl.int64)
    slot = (block * num_kv_heads + kv_head) * BLOCK_SIZE + n % BLOCK_SIZE
    if IS_EDGE or D != D_PAD:
        is_read = is_cached & (n >= 0)
        k = tl.load(
            k_data + slot[None, :] * D + d[:, None],
            mask=is_read[None, :] & (d[:, None] < D), other=0.0,
        )  # fmt: skip
        v = tl.load(
            v_data + slot[:, None] * D + d[None, :],
            mask=is_read[:, None] & (d[None, :] < D), other=0.0,
        )  # fmt: skip
    else:
        k = tl.load(k_data + slot[None, :] * D + d[:, None])
        v = tl.load(v_data + slot[:, None] * D + d[None, :])
    scores = tl.dot(q, widen(k, q.dtype), input_precision="ieee") * scale  # [BLOCK_M, BLOCK_N]
    if K_SCALED:
        scores *= tl.load(k_scales + slot, mask=is_cached, other=0.0)[None, :]
    if HAS_CAP:
        scores = soft_cap * (1.0 - 2.0 / (tl.exp(2.0 * scores / soft_cap) + 1.0))
    scores *= 1.4426950408889634  # log2(e)
    if IS_EDGE:
        sees = is_row[:, None] & is_cached[None, :] & (n[None, :] <= position[:, None])
        if HAS_WINDOW:
            sees = sees & (n[None, :] > position[:, None] - window)
        scores = tl.where(sees, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    # A row that has seen nothing yet keeps -inf; its differences are taken from 0.
    base = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(top - base)
    total = total * shrink + tl.sum(weights, axis=1)
    acc = acc * shrink[:, None]
    if V_SCALED:
        weights *= tl.load(v_scales + slot, mask=is_cached, other=0.0)[None, :]
    acc += tl.dot(weights.to(q.dtype), widen(v, q.dtype), input_precision="ieee")
    return acc, new_top, total


# A step's numbers change all the time: a kernel must not be compiled for each kind of them.
@triton.jit(do_not_specialize=["table_width", "num_requests"])
def attention_kernel(
    qkv, k_data, v_data, k_scales, v_scales, out, part_acc, part_top, query_start, seq_lens,
    block_table, table_width, num_requests, num_kv_heads, row_width, out_width,
    scale, soft_cap, window,
    GROUP: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_Q: tl.constexpr,
    IS_DECODE: tl.constexpr, NUM_SPLITS: tl.constexpr, MIN_SPLIT: tl.constexpr,
    K_SCALED: tl.constexpr, V_SCALED: tl.constexpr, HAS_CAP: tl.constexpr, HAS_WINDOW: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    if IS_DECODE:
        request = tl.program_id(0)
        first_row = 0
    else:
        tile = tl.program_id(0)
        request = _find_request(query_start, tile, num_requests, BLOCK_Q)
        first_row = (tile - (tl.load(query_start + request) // BLOCK_Q + request)) * BLOCK_Q
    query = tl.load(query_start + request)
    query_len = tl.load(query_start + request + 1) - query
    # Requests of one row are the decode launch's, all others the chunk launch's.
    if IS_DECODE:
        if query_len != 1:
            return
    else:
        if query_len <= 1:
            return
        if first_row >= query_len:
            return
    seq_len = tl.load(seq_lens + request)
    m = tl.arange(0, BLOCK_M)
    row = first_row + m // GROUP
    head = kv_head * GROUP + m % GROUP
    is_row = (m // GROUP < BLOCK_Q) & (row < query_len)
    position = seq_len - query_len + row
    d = tl.arange(0, D_PAD)
    token = (query + row).to(tl.int64)
    is_value = is_row[:, None] & (d[None, :] < D)
    q = tl.load(
        qkv + token[:, None] * row_width + head[:, None] * D + d[None, :], mask=is_value, other=0.0
    )
    # The cache positions [low, high) that any row sees, then this program's part of them.
    first_position = seq_len - query_len + first_row
    high = tl.minimum(seq_len, first_position + BLOCK_Q)
    low = 0
    if HAS_WINDOW:
        low = tl.maximum(first_position - window + 1, 0) // BLOCK_N * BLOCK_N
    if NUM_SPLITS > 1:
        length = tl.maximum(tl.cdiv(high - low, NUM_SPLITS), MIN_SPLIT)
        length = tl.cdiv(length, BLOCK_N) * BLOCK_N
        low += split * length
        high = tl.minimum(high, low + length)
    # Whole tiles that every row sees come first; with a window all tiles are checked.
    whole_end = tl.minimum(high, first_position + 1)
    whole_end = low + tl.maximum(whole_end - low, 0) // BLOCK_N * BLOCK_N
    if HAS_WINDOW:
        whole_end = low
    acc = tl.zeros([BLOCK_M, D_PAD], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    blocks = block_table + request.to(tl.int64) * table_width
    for start in range(low, whole_end, BLOCK_N):
        acc, top, total = _attend(
            acc, top, total, q, start, whole_end, k_data, v_data, k_scales, v_scales, blocks,
            kv_head, num_kv_heads, position, is_row, scale, soft_cap, window,
            D, D_PAD, BLOCK_SIZE, BLOCK_N, K_SCALED, V_SCALED, HAS_CAP, HAS_WINDOW, False,
        )  # fmt: skip
    for start in range(whole_end, high, BLOCK_N):
        acc, top, total = _attend(
            acc, top, total, q, start, high, k_data, v_data, k_scales, v_scales, blocks,
            kv_head, num_kv_heads, position, is_row, scale, soft_cap, window,
            D, D_PAD, BLOCK_SIZE, BLOCK_N, K_SCALED, V_SCALED, HAS_CAP, HAS_WINDOW, True,
        )  # fmt: skip
    if NUM_SPLITS > 1:
        part = (request.to(tl.int64) * num_kv_heads * GROUP + head) * NUM_SPLITS + split
        tl.store(part_acc + part[:, None] * D + d[None, :], acc, mask=is_value)
        tl.store(part_top + part * 2, top, mask=is_row)
        tl.store(part_top + part * 2 + 1, total, mask=is_row)
    else:
        mixed = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        tl.store(
            out + token[:, None] * out_width + head[:, None] * D + d[None, :],
            mixed.to(out.dtype.element_ty), mask=is_value,
        )  # fmt: skip


@triton.jit
def combine_kernel(
    part_acc, part_top, out, query_start, num_heads, out_width,
    D: tl.constexpr, D_PAD: tl.constexpr, NUM_SPLITS: tl.constexpr,
):  # fmt: skip
    request = tl.program_id(0)
    head = tl.program_id(1)
    query = tl.load(query_start + request)
    if tl.load(query_start + request + 1) - query != 1:
        return
    split = tl.arange(0, NUM_SPLITS)
    d = tl.arange(0, D_PAD)
    part = (request.to(tl.int64) * num_heads + head) * NUM_SPLITS + split
    tops = tl.load(part_top + part * 2)
    totals = tl.load(part_top + part * 2 + 1)
    base = tl.max(tops, axis=0)
    base = tl.where(base == float("-inf"), 0.0, base)
    shares = tl.exp2(tops - base)
    acc = tl.load(part_acc + part[:, None] * D + d[None, :], mask=d[None, :] < D, other=0.0)
    total = tl.sum(totals * shares, axis=0)
    mixed = tl.sum(acc * shares[:, None], axis=0) / tl.where(total == 0.0, 1.0, total)
    where = out + query.to(tl.int64) * out_width + head * D + d
    tl.store(where, mixed.to(out.dtype.element_ty), mask=d < D)


def num_splits(num_programs: int, num_sms: int, max_seq_len: int) -> int:
    """Parts of a request's cache, a power of 2: enough programs for every SM, none too short."""
    wanted = PROGRAMS_PER_SM * num_sms // max(num_programs, 1)
    bound = min(wanted, max_seq_len // MIN_SPLIT_TOKENS, MAX_SPLITS)
    return 1 << max(bound.bit_length() - 1, 0) if bound > 1 else 1


def attention(
    qkv: torch.Tensor, layer: KVLayer, step: DeviceStep, spec: AttentionSpec, num_sms: int
) -> torch.Tensor:
    """Shapes: qkv [T, (H+2K)*D] -> [T, H*D]. Rows of no request are left zero."""
    out = torch.zeros(
        (qkv.shape[0], spec.num_heads * spec.head_size), dtype=qkv.dtype, device=qkv.device
    )
    if step.has_decode:
        _decode(qkv, layer, step, spec, num_sms, out)
    if step.has_chunks:
        _chunks(qkv, layer, step, spec, out)
    return out


def _decode(
    qkv: torch.Tensor,
    layer: KVLayer,
    step: DeviceStep,
    spec: AttentionSpec,
    num_sms: int,
    out: torch.Tensor,
) -> None:
    num_requests, width = step.block_table.shape
    bound = spec.window or width * layer.k.data.shape[2]
    splits = num_splits(num_requests * spec.num_kv_heads, num_sms, bound)
    group = spec.num_heads // spec.num_kv_heads
    parts = num_requests * spec.num_heads * splits if splits > 1 else 1
    part_acc = torch.empty((parts, spec.head_size), dtype=torch.float32, device=qkv.device)
    part_top = torch.empty((parts, 2), dtype=torch.float32, device=qkv.device)
    _launch(
        (num_requests, spec.num_kv_heads, splits), qkv, layer, step, spec, out, part_acc, part_top,
        BLOCK_M=max(triton.next_power_of_2(group), 16), BLOCK_Q=1, BLOCK_N=64, IS_DECODE=True,
        NUM_SPLITS=splits, num_warps=4 if spec.head_size <= 128 else 8, num_stages=3,
    )  # fmt: skip
    if splits > 1:
        combine_kernel[(num_requests, spec.num_heads)](
            part_acc, part_top, out, step.query_start, spec.num_heads, out.shape[1],
            D=spec.head_size, D_PAD=triton.next_power_of_2(spec.head_size), NUM_SPLITS=splits,
            num_warps=4,
        )  # fmt: skip


def _chunks(
    qkv: torch.Tensor, layer: KVLayer, step: DeviceStep, spec: AttentionSpec, out: torch.Tensor
) -> None:
    group = spec.num_heads // spec.num_kv_heads
    block_m = max(128 if spec.head_size <= 128 else 64, triton.next_power_of_2(group))
    block_q = block_m // group
    # Tiles of 64 tokens spill there: large heads, and 8 bits that are widened in registers.
    is_wide = spec.head_size > 128 or (layer.v.scales is not None and spec.head_size > 64)
    num_tiles = qkv.shape[0] // block_q + step.seq_lens.shape[0]
    _launch(
        (num_tiles, spec.num_kv_heads, 1), qkv, layer, step, spec, out, out, out,
        BLOCK_M=block_m, BLOCK_Q=block_q, BLOCK_N=32 if is_wide else 64, IS_DECODE=False,
        NUM_SPLITS=1, num_warps=8, num_stages=2,
    )  # fmt: skip


def _launch(
    grid: tuple[int, int, int],
    qkv: torch.Tensor,
    layer: KVLayer,
    step: DeviceStep,
    spec: AttentionSpec,
    out: torch.Tensor,
    part_acc: torch.Tensor,
    part_top: torch.Tensor,
    **constants: int,
) -> None:
    k, v = layer.k, layer.v
    attention_kernel[grid](
        qkv, k.data, v.data, k.data if k.scales is None else k.scales,
        v.data if v.scales is None else v.scales, out, part_acc, part_top,
        step.query_start, step.seq_lens, step.block_table, step.block_table.shape[1],
        step.seq_lens.shape[0], spec.num_kv_heads, spec.qkv_width, out.shape[1],
        spec.scale, spec.soft_cap or 0.0, spec.window or 0,
        GROUP=spec.num_heads // spec.num_kv_heads, D=spec.head_size,
        D_PAD=max(triton.next_power_of_2(spec.head_size), 16), BLOCK_SIZE=k.data.shape[2],
        MIN_SPLIT=MIN_SPLIT_TOKENS, K_SCALED=k.scales is not None, V_SCALED=v.scales is not None,
        HAS_CAP=spec.soft_cap is not None, HAS_WINDOW=spec.window is not None, **constants,
    )  # fmt: skip
