"""Adapters on the CPU kernels: their own form for replays, and the two calls that eager steps make.

In: packed pairs, arrays of a step. Out: what C++ reads. The extension checks shapes and rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from headrace import _cpu
from headrace.ops.cpu.matmul import GATES
from headrace.ops.protocol import Activation, Ops
from headrace.ops.reference.lora import AdaptedOps, Adapter
from headrace.ops.step_inputs import Float32, Int32, StepInputs


def with_handle(adapter: Adapter) -> Adapter:
    """The adapter with the form that recorded steps take."""
    handle = _cpu.Adapter()
    for weight in adapter.weights:
        handle.add(weight, *adapter.pairs[id(weight)])
    return replace(adapter, handle=handle)


def adapted(ops: Ops, kernels: _cpu.CpuOps, step: StepInputs) -> Ops:
    """See Ops.adapted."""

    def gate(gate_up: Float32, activation: Activation) -> Float32:
        out = _cpu.take(kernels, len(gate_up), gate_up.shape[1] // 2)
        _cpu.gate(kernels, gate_up, GATES[activation], out)
        return out

    def add_lora(
        x: Float32, a: _cpu.PackedLinear, b: _cpu.PackedLinear, rows: Int32, y: Float32
    ) -> None:
        _cpu.add_lora(kernels, x, a, b, rows, y)

    return cast(Ops, AdaptedOps(ops, step, gate, add_lora))
