"""The paged KV cache on the device, and the writing of keys and values.

One block of one head is contiguous: [N, K, B, D]. Halves of 8 bits, integers or floats, have a
float32 scale per token and head beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from headrace.core.frozen import frozen
from headrace.ops.cuda.float8 import scale_of, to_float8
from headrace.ops.protocol import AttentionSpec, KVCache, KVCacheDtype


@frozen
class KVHalf:
    """Keys or values. Shapes: data [N, K, B, D]; scales [N, K, B], None where there are none.

    Floats of 8 bits are float8 where the device reads it, else uint8.
    """

    data: torch.Tensor
    scales: torch.Tensor | None


@frozen
class KVLayer:
    """Keys and values of one layer."""

    k: KVHalf
    v: KVHalf

    @property
    def num_slots(self) -> int:
        return self.k.data.shape[0] * self.k.data.shape[2]

    @property
    def num_bytes(self) -> int:
        halves = (self.k, self.v)
        tensors = [t for half in halves for t in (half.data, half.scales) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)


def kv_bytes_per_block(
    specs: Sequence[AttentionSpec], block_size: int, dtype: torch.dtype, kv_dtype: KVCacheDtype
) -> int:
    """Bytes of one block over all layers."""
    total = 0
    for spec in specs:
        for half in _dtypes(spec, kv_dtype):
            head = spec.head_size * dtype.itemsize if half == "bf16" else spec.head_size + 4
            total += spec.num_kv_heads * block_size * head
    return total


def allocate_kv(
    specs: Sequence[AttentionSpec],
    num_blocks: int,
    block_size: int,
    dtype: torch.dtype,
    kv_dtype: KVCacheDtype,
    device: torch.device,
    has_float8: bool = False,
) -> KVCache:
    """Zeroed tensors for num_blocks blocks in each layer. `has_float8`: kernels know the type."""
    tensor_dtypes = {
        "bf16": dtype, "int8": torch.int8,
        "fp8": torch.float8_e4m3fn if has_float8 else torch.uint8,
    }  # fmt: skip
    layers = []
    for spec in specs:
        shape = (num_blocks, spec.num_kv_heads, block_size, spec.head_size)
        halves = [_make_half(shape, tensor_dtypes[half], half != "bf16", device)
                  for half in _dtypes(spec, kv_dtype)]  # fmt: skip
        layers.append(KVLayer(*halves))
    num_bytes = kv_bytes_per_block(specs, block_size, dtype, kv_dtype) * num_blocks
    return KVCache(tuple(layers), num_blocks, block_size, num_bytes)


def copy_blocks(cache: KVCache, pairs: Sequence[tuple[int, int]]) -> None:
    """Copy blocks (from, to) whole, in all layers. Mutates: cache."""
    halves = [half for layer in cache.layers for half in (layer.k, layer.v)]
    where = torch.tensor(pairs, dtype=torch.int64).T.to(halves[0].data.device)
    for half in halves:
        for part in (half.data, half.scales):
            if part is not None:
                # Not every device indexes floats of 8 bits.
                plain = part.view(torch.uint8) if part.element_size() == 1 else part
                plain.index_copy_(0, where[1], plain.index_select(0, where[0]))


def _dtypes(spec: AttentionSpec, kv_dtype: KVCacheDtype) -> tuple[KVCacheDtype, KVCacheDtype]:
    """Of keys and of values. Floats of 8 bits hold uneven keys: their error is relative."""
    is_wide = kv_dtype == "int8" and spec.has_uneven_keys
    return "bf16" if is_wide else kv_dtype, kv_dtype


def _make_half(
    shape: tuple[int, ...], dtype: torch.dtype, has_scales: bool, device: torch.device
) -> KVHalf:
    data = torch.zeros(shape, dtype=dtype, device=device)
    if not has_scales:
        return KVHalf(data, None)
    return KVHalf(data, torch.zeros(shape[:-1], dtype=torch.float32, device=device))


@triton.jit
def _store_head(x, data, scales, slot, is_dim, d, D: tl.constexpr, IS_SCALED: tl.constexpr):
    """Write one head of one token; 8 bits round to the nearest, ties to even."""
    if IS_SCALED:
        size = tl.abs(x)
        is_damaged = tl.max(((size != size) | (size == float("inf"))).to(tl.int32), axis=0) > 0
        top = tl.max(tl.where(size == size, size, 0.0), axis=0)
        if data.dtype.element_ty == tl.int8:
            scale = top / 127.0
            factor = tl.where(top > 7.888609052210118e-31, 127.0 / top, 0.0)  # 2^-100
            # Adding 1.5 * 2^23 leaves no bits after the point: the hardware rounds to even.
            units = (x * factor + 12582912.0) - 12582912.0
            rounded = tl.where(is_damaged, 0.0, units).to(tl.int8)
        else:
            scale, factor = scale_of(top)
            rounded = to_float8(tl.where(is_damaged, 0.0, x * factor))
        tl.store(data + slot * D + d, rounded, mask=is_dim)
        tl.store(scales + slot, tl.where(is_damaged, float("nan"), scale))
    else:
        tl.store(data + slot * D + d, x.to(data.dtype.element_ty), mask=is_dim)


@triton.jit
def store_kv_kernel(
    qkv, slots, key_shift, k_data, v_data, k_scales, v_scales, num_heads, num_kv_heads,
    block_size, row_width, D: tl.constexpr, D_PAD: tl.constexpr, HAS_SHIFT: tl.constexpr,
    K_SCALED: tl.constexpr, V_SCALED: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    kv_head = tl.program_id(1)
    slot = tl.load(slots + token).to(tl.int64)
    if slot >= 0:
        d = tl.arange(0, D_PAD)
        is_dim = d < D
        where = ((slot // block_size) * num_kv_heads + kv_head) * block_size + slot % block_size
        key = qkv + token.to(tl.int64) * row_width + (num_heads + kv_head) * D
        k = tl.load(key + d, mask=is_dim, other=0.0).to(tl.float32)
        if HAS_SHIFT:
            k -= tl.load(key_shift + kv_head * D + d, mask=is_dim, other=0.0)
        v = tl.load(key + num_kv_heads * D + d, mask=is_dim, other=0.0).to(tl.float32)
        _store_head(k, k_data, k_scales, where, is_dim, d, D, K_SCALED)
        _store_head(v, v_data, v_scales, where, is_dim, d, D, V_SCALED)


def store_kv(
    qkv: torch.Tensor,
    layer: KVLayer,
    slots: torch.Tensor,
    spec: AttentionSpec,
    key_shift: torch.Tensor | None,
) -> None:
    """Write the step's keys, less key_shift, and values; slot -1 skips the row. Mutates: layer."""
    num_tokens = qkv.shape[0]
    if not num_tokens:
        return
    k, v = layer.k, layer.v
    store_kv_kernel[(num_tokens, spec.num_kv_heads)](
        qkv, slots, qkv if key_shift is None else key_shift, _as_bytes(k.data), _as_bytes(v.data),
        k.data if k.scales is None else k.scales, v.data if v.scales is None else v.scales,
        spec.num_heads, spec.num_kv_heads, k.data.shape[2], spec.qkv_width,
        D=spec.head_size, D_PAD=triton.next_power_of_2(spec.head_size),
        HAS_SHIFT=key_shift is not None, K_SCALED=k.scales is not None,
        V_SCALED=v.scales is not None, num_warps=1,
    )  # fmt: skip


def _as_bytes(data: torch.Tensor) -> torch.Tensor:
    """Floats of 8 bits as the codes that the kernel writes."""
    return data.view(torch.uint8) if data.dtype == torch.float8_e4m3fn else data
