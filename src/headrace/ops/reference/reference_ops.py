"""ReferenceOps: the Ops protocol over numpy, one family of functions per file.

With float64 it is the definition that every device is measured against; with float32 it is what
runs where the C++ extension is missing. Knows nothing of models or requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from headrace.ops.protocol import (
    Activation,
    AdaptedLinear,
    Array,
    AttentionSpec,
    ChoosingStep,
    Experts,
    Forward,
    ForwardLogits,
    KVCache,
    KVCacheDtype,
    Logprobs,
    Ops,
    RopeParams,
    Routing,
)
from headrace.ops.rank_group import RankGroup
from headrace.ops.reference import (
    attention,
    attention_packed,
    embed,
    lora,
    matmul,
    moe,
    norm,
    rope,
    sampling,
    store_kv,
)
from headrace.ops.reference.activation import ACTIVATIONS, gate, gelu
from headrace.ops.reference.matmul import Linear
from headrace.ops.reference.norm import Floats
from headrace.ops.reference.rope import RopeTable
from headrace.ops.reference.store_kv import KVLayer
from headrace.ops.step_inputs import Float32, Int32, SampleInputs, StepInputs
from headrace.quant.quant_tensor import QuantTensor


class ReferenceOps:
    """Ops in numpy. `dtype` is float64 or float32; logits and what follows are always float32.

    With a `group` these are one rank's, and the model's matrices are divided over all.
    """

    has_bf16_products = False
    has_mixtures = True
    has_adapters = True

    def __init__(self, dtype: DTypeLike = np.float64, group: RankGroup | None = None) -> None:
        self.dtype = np.dtype(dtype)
        if self.dtype not in (np.dtype(np.float64), np.dtype(np.float32)):
            raise ValueError(f"dtype is {self.dtype}; allowed: float64, float32.")
        self.name = f"reference-{self.dtype.name}"
        self._group = group
        if group is not None:
            self.name += f"-tp{group.num_ranks}"

    # -- at load -------------------------------------------------------------------------------

    def pack_linear(
        self,
        parts: Sequence[QuantTensor],
        biases: Sequence[QuantTensor | None] | None = None,
        interleave: bool = False,
    ) -> Linear:
        return matmul.pack_linear(parts, biases, interleave, self.dtype)

    def finish_packing(self) -> None:
        """Nothing is packed beside the caller."""

    def pack_table(self, table: QuantTensor) -> QuantTensor:
        return table

    def pack_adapter(self, linears: Sequence[AdaptedLinear]) -> lora.Adapter:
        return lora.pack_adapter(self, linears)

    def adapted(self, step: StepInputs) -> Ops:
        return cast(Ops, lora.AdaptedOps(self, step, gate, partial(lora.add_lora, self)))

    def packed_bytes(self, tensor: QuantTensor) -> int:
        return math.prod(tensor.shape) * self.dtype.itemsize

    def extra_scratch_bytes(
        self,
        matrices: Sequence[QuantTensor],
        replayed_rows: int,
        row_bytes: int,
        logits_bytes: int,
    ) -> int:
        return 0

    def pack_vector(self, vector: QuantTensor) -> Floats:
        return vector.dequantize().reshape(-1).astype(self.dtype)

    def rope_table(self, params: RopeParams) -> RopeTable:
        return rope.rope_table(params)

    def kv_bytes_per_block(
        self, specs: Sequence[AttentionSpec], block_size: int, dtype: KVCacheDtype = "bf16"
    ) -> int:
        return store_kv.kv_bytes_per_block(specs, block_size, self.dtype, dtype)

    def allocate_kv(
        self,
        specs: Sequence[AttentionSpec],
        num_blocks: int,
        block_size: int,
        dtype: KVCacheDtype = "bf16",
    ) -> KVCache:
        return store_kv.allocate_kv(specs, num_blocks, block_size, self.dtype, dtype)

    def copy_blocks(self, cache: KVCache, pairs: Sequence[tuple[int, int]]) -> None:
        for layer in cache.layers:
            layer.copy_blocks(pairs)

    # -- forward -------------------------------------------------------------------------------

    def embed(self, token_ids: Int32, table: QuantTensor, scale: float = 1.0) -> Floats:
        return embed.embed(token_ids, table, scale, self.dtype)

    def rms_norm(self, h: Floats, weight: Floats, eps: float, add: Floats | None = None) -> Floats:
        return norm.add_rms_norm(h, weight, eps, add)

    def norm_array(self, x: Floats, weight: Floats, eps: float) -> Floats:
        return norm.rms_norm(x, weight, eps)

    def layer_norm(
        self, h: Floats, weight: Floats, bias: Floats, eps: float, add: Floats | None = None
    ) -> Floats:
        return norm.layer_norm(h if add is None else h + add, weight, bias, eps)

    def linear(self, x: Floats, weight: Linear) -> Floats:
        return matmul.linear(x, weight)

    def gated_linear(
        self, x: Floats, weight: Linear, activation: Activation, reader: Linear | None = None
    ) -> Floats:
        return ACTIVATIONS[activation](matmul.linear(x, weight))

    def moe(self, x: Floats, experts: Experts, routing: Routing, activation: Activation) -> Floats:
        return moe.moe(self, x, experts, routing, activation, np.exp)

    def gelu(self, x: Floats) -> Floats:
        return gelu(x)

    def tanh(self, x: Floats) -> Floats:
        return np.tanh(x, out=x)

    def relu(self, x: Floats) -> Floats:
        return np.maximum(x, 0, out=x)

    def rope(
        self,
        qkv: Floats,
        positions: Int32,
        table: RopeTable,
        spec: AttentionSpec,
        q_norm: Floats | None = None,
        k_norm: Floats | None = None,
        eps: float = 0.0,
    ) -> None:
        rope.rope(qkv, positions, table, spec, q_norm, k_norm, eps)

    def store_kv(
        self,
        qkv: Floats,
        layer: KVLayer,
        slot_mapping: Int32,
        spec: AttentionSpec,
        key_shift: Floats | None = None,
    ) -> None:
        store_kv.store_kv(qkv, layer, slot_mapping, spec, key_shift)

    def attention(
        self, qkv: Floats, layer: KVLayer, step: StepInputs, spec: AttentionSpec
    ) -> Floats:
        return attention.attention(qkv, layer, step, spec)

    def attention_packed(self, qkv: Floats, query_start: Int32, spec: AttentionSpec) -> Floats:
        return attention_packed.attention_packed(qkv, query_start, spec)

    def take_rows(self, x: Floats, rows: Int32) -> Floats:
        return x if len(rows) == len(x) else x[rows]

    def logits(
        self,
        h: Floats,
        norm: Floats,
        eps: float,
        head: Linear,
        rows: Int32,
        add: Floats | None = None,
        soft_cap: float | None = None,
    ) -> Float32:
        wanted = h[rows] if add is None else h[rows] + add[rows]
        result = self.linear(self.norm_array(wanted, norm, eps), head)
        if soft_cap is not None:
            result = soft_cap * np.tanh(result / soft_cap)
        return np.ascontiguousarray(result, dtype=np.float32)

    def all_reduce(self, x: Floats) -> Floats:
        return x if self._group is None else self._group.all_reduce(x)

    def all_gather(self, x: Float32, num_columns: int) -> Float32:
        if self._group is None:
            return x
        return np.hstack(self._group.all_gather(x))[:, :num_columns].copy()

    def record(self, forward: Forward) -> Callable[[StepInputs], Sequence[Array]] | None:
        return None

    def record_choices(self, forward: ForwardLogits) -> ChoosingStep | None:
        return None

    def free_bytes(self) -> int | None:
        return None

    def to_host(self, x: Float32) -> Float32:
        return x

    # -- choosing ------------------------------------------------------------------------------

    def adjust_logits(self, logits: Float32, inputs: SampleInputs) -> None:
        sampling.adjust_logits(logits, inputs)

    def sample(self, logits: Float32, inputs: SampleInputs) -> Int32:
        return sampling.sample(logits, inputs)

    def logprobs(self, logits: Float32, token_ids: Int32, num_top: int) -> Logprobs:
        return sampling.logprobs(logits, token_ids, num_top)


def make_ops(isa: str | None, num_threads: int) -> ReferenceOps:
    """The entry in ops/table.py: float32, numpy's own threads, no choice of instruction set."""
    return ReferenceOps(np.float32)
