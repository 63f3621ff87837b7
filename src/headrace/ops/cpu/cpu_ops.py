"""CpuOps: the Ops protocol over the C++ kernels, one instruction set and one thread pool each.

Two of them with different instruction sets may live in one process. Arrays are numpy float32; an
Act is one too, quantized by the linear that reads it, or is quantized already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from headrace import _cpu
from headrace.ops.cpu import adapters, forward, matmul, sampling, step_plan
from headrace.ops.cpu.isa import choose_isa
from headrace.ops.cpu.kernels import BF16_KERNELS
from headrace.ops.cpu.rope_fill import RopeFill
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
from headrace.ops.reference import lora
from headrace.ops.reference import moe as reference_moe
from headrace.ops.reference.exact_math import exp32
from headrace.ops.reference.rope import RopeTable
from headrace.ops.step_inputs import Float32, Int32, SampleInputs, StepInputs
from headrace.quant.quant_tensor import QuantTensor


class CpuOps:
    """Ops in C++. `isa` None is the highest of this machine.

    Raises: ConfigError for an instruction set that cannot run here.
    """

    has_mixtures = True
    has_adapters = True

    def __init__(self, isa: str | None = None, num_threads: int = 1) -> None:
        self._kernels = _cpu.CpuOps(choose_isa(isa), num_threads)
        self.name = f"cpu-{self._kernels.isa}"
        self.has_bf16_products = self._kernels.isa in BF16_KERNELS
        # The C++ weight holds the list of its parts, which is emptied once nothing reads them.
        self._unpacked: deque[tuple[_cpu.PackedLinear, list[matmul.StoredPart]]] = deque()
        self._filling: list[RopeFill] = []

    # -- at load -------------------------------------------------------------------------------

    def pack_linear(
        self,
        parts: Sequence[QuantTensor],
        biases: Sequence[QuantTensor | None] | None = None,
        interleave: bool = False,
    ) -> _cpu.PackedLinear:
        weight, read = matmul.pack_linear(self._kernels, parts, biases, interleave)
        while self._unpacked and self._unpacked[0][0].is_packed:
            self._unpacked.popleft()[1].clear()
        self._unpacked.append((weight, read))
        return weight

    def finish_packing(self) -> None:
        for fill in self._filling:  # while the pool packs
            fill.fill()
        self._filling.clear()
        self._finish_weights()

    def _finish_weights(self) -> None:
        if self._unpacked:
            _cpu.finish_packing(self._kernels)
            for _, read in self._unpacked:
                read.clear()
            self._unpacked.clear()

    def _finish_positions(self, positions: Int32) -> None:
        if self._filling:
            for fill in self._filling:
                fill.fill(positions)
            self._filling = [fill for fill in self._filling if not fill.is_done]

    def pack_table(self, table: QuantTensor) -> QuantTensor:
        return table

    def pack_adapter(self, linears: Sequence[AdaptedLinear]) -> lora.Adapter:
        return adapters.with_handle(lora.pack_adapter(self, linears))

    def adapted(self, step: StepInputs) -> Ops:
        return adapters.adapted(self, self._kernels, step)

    def packed_bytes(self, tensor: QuantTensor) -> int:
        return matmul.packed_bytes(tensor)

    def extra_scratch_bytes(
        self,
        matrices: Sequence[QuantTensor],
        replayed_rows: int,
        row_bytes: int,
        logits_bytes: int,
    ) -> int:
        return 0

    def pack_vector(self, vector: QuantTensor) -> Float32:
        return vector.dequantize().reshape(-1)

    def rope_table(self, params: RopeParams) -> RopeTable:
        fill = RopeFill(params)
        self._filling.append(fill)
        return fill.table

    def kv_bytes_per_block(
        self, specs: Sequence[AttentionSpec], block_size: int, dtype: KVCacheDtype = "bf16"
    ) -> int:
        return forward.kv_bytes_per_block(specs, block_size, dtype)

    def allocate_kv(
        self,
        specs: Sequence[AttentionSpec],
        num_blocks: int,
        block_size: int,
        dtype: KVCacheDtype = "bf16",
    ) -> KVCache:
        return forward.allocate_kv(specs, num_blocks, block_size, dtype)

    def copy_blocks(self, cache: KVCache, pairs: Sequence[tuple[int, int]]) -> None:
        forward.copy_blocks(self._kernels, cache, pairs)

    # -- forward -------------------------------------------------------------------------------

    def embed(self, token_ids: Int32, table: QuantTensor, scale: float = 1.0) -> Float32:
        self._finish_weights()
        return forward.embed(self._kernels, token_ids, table, scale)

    def rms_norm(
        self, h: Float32, weight: Float32, eps: float, add: Float32 | None = None
    ) -> Float32:
        return forward.rms_norm(self._kernels, h, weight, eps, add)

    def norm_array(self, x: Float32, weight: Float32, eps: float) -> Float32:
        return forward.rms_norm(self._kernels, x, weight, eps, None)

    def layer_norm(
        self, h: Float32, weight: Float32, bias: Float32, eps: float, add: Float32 | None = None
    ) -> Float32:
        return forward.layer_norm(self._kernels, h, weight, bias, eps, add)

    def linear(self, x: matmul.Act, weight: _cpu.PackedLinear) -> Float32:
        return matmul.linear(self._kernels, x, weight)

    def gated_linear(
        self,
        x: Float32,
        weight: _cpu.PackedLinear,
        activation: Activation,
        reader: _cpu.PackedLinear | None = None,
    ) -> matmul.Act:
        return matmul.gated_linear(self._kernels, x, weight, activation, reader)

    def moe(
        self, x: Float32, experts: Experts, routing: Routing, activation: Activation
    ) -> Float32:
        return reference_moe.moe(self, x, experts, routing, activation, exp32)

    def gelu(self, x: Float32) -> Float32:
        _cpu.gelu(self._kernels, x)
        return x

    def tanh(self, x: Float32) -> Float32:
        return np.tanh(x, out=x)

    def relu(self, x: Float32) -> Float32:
        return np.maximum(x, 0, out=x)

    def rope(
        self,
        qkv: Float32,
        positions: Int32,
        table: RopeTable,
        spec: AttentionSpec,
        q_norm: Float32 | None = None,
        k_norm: Float32 | None = None,
        eps: float = 0.0,
    ) -> None:
        self._finish_positions(positions)
        forward.rope(self._kernels, qkv, positions, table, spec, q_norm, k_norm, eps)

    def store_kv(
        self,
        qkv: Float32,
        layer: _cpu.KVLayer,
        slot_mapping: Int32,
        spec: AttentionSpec,
        key_shift: Float32 | None = None,
    ) -> None:
        _cpu.store_kv(self._kernels, qkv, layer, slot_mapping, spec.num_heads, key_shift)

    def attention(
        self, qkv: Float32, layer: _cpu.KVLayer, step: StepInputs, spec: AttentionSpec
    ) -> Float32:
        return forward.attention(self._kernels, qkv, layer, step, spec)

    def attention_packed(self, qkv: Float32, query_start: Int32, spec: AttentionSpec) -> Float32:
        return forward.attention_packed(self._kernels, qkv, query_start, spec)

    def take_rows(self, x: Float32, rows: Int32) -> Float32:
        return x if len(rows) == len(x) else x[rows]

    def logits(
        self,
        h: Float32,
        norm: Float32,
        eps: float,
        head: _cpu.PackedLinear,
        rows: Int32,
        add: Float32 | None = None,
        soft_cap: float | None = None,
    ) -> Float32:
        wanted = self.take_rows(h, rows)
        if add is not None:
            wanted = wanted + self.take_rows(add, rows)
        result = self.linear(self.norm_array(wanted, norm, eps), head)
        if soft_cap is not None:
            np.tanh(result / np.float32(soft_cap), out=result)
            result *= np.float32(soft_cap)
        return result

    def all_reduce(self, x: Float32) -> Float32:
        """One process has the whole model here."""
        return x

    def all_gather(self, x: Float32, num_columns: int) -> Float32:
        """One process has the whole model here."""
        return x

    def record(self, forward: Forward) -> Callable[[StepInputs], Sequence[Array]] | None:
        replay = step_plan.record(self._kernels, self.name, forward)
        if replay is None:
            return None

        def run(step: StepInputs) -> Sequence[Array]:
            self._finish_positions(step.positions)
            self._finish_weights()
            return replay(step)

        return run

    def record_choices(self, forward: ForwardLogits) -> ChoosingStep | None:
        return None

    def free_bytes(self) -> int | None:
        return None

    def to_host(self, x: Float32) -> Float32:
        return x

    # -- choosing ------------------------------------------------------------------------------

    def adjust_logits(self, logits: Float32, inputs: SampleInputs) -> None:
        sampling.adjust_logits(self._kernels, logits, inputs)

    def sample(self, logits: Float32, inputs: SampleInputs) -> Int32:
        return sampling.sample(self._kernels, logits, inputs)

    def logprobs(self, logits: Float32, token_ids: Int32, num_top: int) -> Logprobs:
        return sampling.logprobs(self._kernels, logits, token_ids, num_top)


def make_ops(isa: str | None, num_threads: int) -> CpuOps:
    """The entry in ops/table.py."""
    return CpuOps(isa, num_threads)
