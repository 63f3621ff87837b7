"""The forward ops of the CPU kernels, the linears apart.

In: float32 arrays and the kernels of one instruction set. Out: new arrays, or the given ones
changed. The extension checks shapes and indices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace import _cpu
from headrace.core.errors import ConfigError, UnsupportedFormat
from headrace.ops.protocol import AttentionSpec, KVCache, KVCacheDtype
from headrace.ops.reference import embed as reference_embed
from headrace.ops.reference.rope import RopeTable
from headrace.ops.step_inputs import Float32, Int32, StepInputs
from headrace.quant.quant_tensor import QuantTensor


def embed(ops: _cpu.CpuOps, token_ids: Int32, table: QuantTensor, scale: float) -> Float32:
    """Rows of the table times scale; formats that C++ does not read go through numpy."""
    if not _cpu.can_embed(ops, table.format.ggml_type):
        return reference_embed.embed(token_ids, table, scale, np.float32)
    out = _cpu.take(ops, len(token_ids), table.shape[1])
    _cpu.embed(ops, token_ids, table.data, table.format.ggml_type, scale, out)
    return out


def rms_norm(
    ops: _cpu.CpuOps, h: Float32, weight: Float32, eps: float, add: Float32 | None
) -> Float32:
    """h += add where given, then the norm of h. Mutates: h when add is given."""
    out = _cpu.take(ops, *h.shape)
    _cpu.rms_norm(ops, h, weight, eps, out, add)
    return out


def layer_norm(
    ops: _cpu.CpuOps,
    h: Float32,
    weight: Float32,
    bias: Float32,
    eps: float,
    add: Float32 | None,
) -> Float32:
    """Layer norm of h, or of h + add."""
    out = _cpu.take(ops, *h.shape)
    _cpu.layer_norm(ops, h, weight, bias, eps, out, add)
    return out


def rope(
    ops: _cpu.CpuOps,
    qkv: Float32,
    positions: Int32,
    table: RopeTable,
    spec: AttentionSpec,
    q_norm: Float32 | None,
    k_norm: Float32 | None,
    eps: float,
) -> None:
    """Norm and rotate q and k heads. Mutates: qkv."""
    heads = (spec.num_heads, spec.num_kv_heads, spec.head_size)
    _cpu.rope(ops, qkv, positions, table.cos, table.sin, *heads, q_norm, k_norm, eps)


KV_FORMATS = {"bf16": _cpu.KVFormat.BF16, "int8": _cpu.KVFormat.INT8}


def _kv_formats(spec: AttentionSpec, dtype: KVCacheDtype) -> tuple[_cpu.KVFormat, _cpu.KVFormat]:
    """Of a layer's keys and values. Raises: ConfigError for one that has no kernel."""
    if dtype not in KV_FORMATS:
        raise ConfigError(
            "engine.kv_cache_dtype", dtype, "auto, bf16, int8 on device cpu",
            "Keys and values as floats of 8 bits are for NVIDIA GPUs; int8 takes as little here.",
        )  # fmt: skip
    return KV_FORMATS["bf16" if spec.has_uneven_keys else dtype], KV_FORMATS[dtype]


def kv_bytes_per_block(specs: Sequence[AttentionSpec], block_size: int, dtype: KVCacheDtype) -> int:
    """Bytes of one block over all layers. Raises: UnsupportedFormat for heads of other sizes."""
    try:
        return sum(
            _cpu.kv_block_bytes(
                spec.num_kv_heads, block_size, spec.head_size, *_kv_formats(spec, dtype)
            )
            for spec in specs
        )
    except ValueError as error:
        raise UnsupportedFormat(
            f"Device cpu does not run the model's attention: {error}"
        ) from error


def allocate_kv(
    specs: Sequence[AttentionSpec], num_blocks: int, block_size: int, dtype: KVCacheDtype
) -> KVCache:
    """An empty cache. Pages are touched when tokens come, not here.

    Raises: ValueError for a block size or head size that the kernels do not read.
    """
    layers = tuple(
        _cpu.KVLayer(
            num_blocks, spec.num_kv_heads, block_size, spec.head_size, *_kv_formats(spec, dtype)
        )
        for spec in specs
    )
    num_bytes = kv_bytes_per_block(specs, block_size, dtype) * num_blocks
    return KVCache(layers, num_blocks, block_size, num_bytes)


def copy_blocks(ops: _cpu.CpuOps, cache: KVCache, pairs: Sequence[tuple[int, int]]) -> None:
    """Copy blocks (from, to) whole, in all layers. Mutates: cache. Raises: IndexError."""
    blocks = np.array(pairs, dtype=np.int32)
    for layer in cache.layers:
        _cpu.copy_blocks(ops, layer, blocks)


def attention(
    ops: _cpu.CpuOps, qkv: Float32, layer: _cpu.KVLayer, step: StepInputs, spec: AttentionSpec
) -> Float32:
    """Causal attention over the paged cache. Shapes: qkv [T, (H+2K)*D] -> [T, H*D]."""
    out = _cpu.take(ops, qkv.shape[0], spec.num_heads * spec.head_size)
    _cpu.attention(
        ops,
        qkv,
        layer,
        step.positions,
        step.query_start,
        step.seq_lens,
        step.block_table,
        spec.num_heads,
        spec.scale,
        spec.window or 0,
        spec.soft_cap or 0.0,
        out,
    )
    return out


def attention_packed(
    ops: _cpu.CpuOps, qkv: Float32, query_start: Int32, spec: AttentionSpec
) -> Float32:
    """Bidirectional attention of whole sequences. Shapes: qkv [T, 3*H*D] -> [T, H*D]."""
    out = _cpu.take(ops, qkv.shape[0], spec.num_heads * spec.head_size)
    _cpu.attention_packed(ops, qkv, query_start, spec.num_heads, spec.scale, out)
    return out
