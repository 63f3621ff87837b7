"""A step's calls written down once and replayed by one call of C++.

In: a forward pass, run over a recorder in place of the ops. Out: a function of StepInputs. A plan
holds weights and sizes and no value of a step, so one serves every batch; its bits are those of the
same calls one by one. Results of a recorded call are numbers, which later calls name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from headrace import _cpu
from headrace.ops.cpu.matmul import GATES
from headrace.ops.protocol import Activation, Array, AttentionSpec, Experts, Forward, Routing
from headrace.ops.reference.rope import RopeTable
from headrace.ops.step_inputs import Float32, StepInputs
from headrace.quant.quant_tensor import QuantTensor

SYMBOLS = StepInputs(*([None] * len(fields(StepInputs))))  # type: ignore[arg-type]
"""Stands for the arrays of a step while a forward pass is recorded; every use is known by place."""


class CannotRecord(Exception):
    """A call that C++ has no kernel for."""


class Recorder:
    """The forward ops, writing a plan. Arrays and Acts are the plan's numbers of results."""

    def __init__(self, ops: _cpu.CpuOps, name: str) -> None:
        self.name = name
        self.plan = _cpu.StepPlan(ops)
        self._kernels = ops

    def embed(self, token_ids: None, table: QuantTensor, scale: float = 1.0) -> int:
        if not _cpu.can_embed(self._kernels, table.format.ggml_type):
            raise CannotRecord(f"embed reads no {table.format.name}")
        return self.plan.embed(table.data, table.format.ggml_type, table.shape[1], scale)

    def rms_norm(self, h: int, weight: Float32, eps: float, add: int | None = None) -> int:
        return self.plan.rms_norm(h, weight, eps, add)

    def norm_array(self, x: int, weight: Float32, eps: float) -> int:
        return self.plan.rms_norm(x, weight, eps, None)

    def linear(self, x: int, weight: _cpu.PackedLinear) -> int:
        return self.plan.linear(x, weight)

    def gated_linear(
        self,
        x: int,
        weight: _cpu.PackedLinear,
        activation: Activation,
        reader: _cpu.PackedLinear | None = None,
    ) -> int:
        is_read_quantized = reader is not None and reader.is_quantized
        return self.plan.gated_linear(x, weight, GATES[activation], is_read_quantized)

    def moe(self, x: int, experts: Experts, routing: Routing, activation: Activation) -> int:
        raise CannotRecord("a mixture chooses its linears by values, and a plan holds none")

    def rope(
        self,
        qkv: int,
        positions: None,
        table: RopeTable,
        spec: AttentionSpec,
        q_norm: Float32 | None = None,
        k_norm: Float32 | None = None,
        eps: float = 0.0,
    ) -> None:
        heads = (spec.num_heads, spec.num_kv_heads, spec.head_size)
        self.plan.rope(qkv, table.cos, table.sin, *heads, q_norm, k_norm, eps)

    def store_kv(
        self,
        qkv: int,
        layer: _cpu.KVLayer,
        slot_mapping: None,
        spec: AttentionSpec,
        key_shift: Float32 | None = None,
    ) -> None:
        self.plan.store_kv(qkv, layer, spec.num_heads, key_shift)

    def attention(
        self, qkv: int, layer: _cpu.KVLayer, step: StepInputs, spec: AttentionSpec
    ) -> int:
        return self.plan.attention(
            qkv, layer, spec.num_heads, spec.scale, spec.window or 0, spec.soft_cap or 0.0
        )

    def take_rows(self, x: int, rows: None) -> int:
        return self.plan.take_wanted(x)

    def all_reduce(self, x: int) -> int:
        return x


def record(
    ops: _cpu.CpuOps, name: str, forward: Forward
) -> Callable[[StepInputs], Sequence[Array]] | None:
    """See Ops.record."""
    recorder: Any = Recorder(ops, name)
    try:
        recorder.plan.finish(list(forward(recorder, SYMBOLS)))
    except CannotRecord:
        return None
    plan: _cpu.StepPlan = recorder.plan

    def replay(step: StepInputs) -> Sequence[Float32]:
        arrays = (
            step.token_ids,
            step.positions,
            step.slot_mapping,
            step.query_start,
            step.seq_lens,
            step.block_table,
            step.logit_rows,
        )
        if not step.adapters:
            return plan.run(*arrays)
        adapters = [(each.adapter.handle, *each[1:]) for each in step.adapters]
        return plan.run_adapted(*arrays, adapters)

    return replay
