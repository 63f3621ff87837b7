"""Gated activations over gate and up columns that alternate in units of GATE_UP_INTERLEAVE."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from headrace.ops.protocol import GATE_UP_INTERLEAVE, Activation

BLOCK = 1024


@triton.jit
def gate(x, up, IS_SILU: tl.constexpr):
    """silu(x) * up or gelu_tanh(x) * up; the latter as x * sigmoid(2 * inner)."""
    inner = x
    if not IS_SILU:
        inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)  # sqrt(8 / pi)
    return x / (1.0 + tl.exp(-inner)) * up


@triton.jit
def gate_kernel(gate_up, out, width, BLOCK: tl.constexpr, UNIT: tl.constexpr,
                IS_SILU: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_inside = column < width
    place = gate_up + row * 2 * width + column // UNIT * (2 * UNIT) + column % UNIT
    x = tl.load(place, mask=is_inside, other=0.0).to(tl.float32)
    up = tl.load(place + UNIT, mask=is_inside, other=0.0).to(tl.float32)
    y = gate(x, up, IS_SILU)
    tl.store(out + row * width + column, y.to(out.dtype.element_ty), mask=is_inside)


def gated(gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """activation(gate) * up. Shapes: [T, 2F] -> [T, F]."""
    num_rows, both = gate_up.shape
    out = torch.empty((num_rows, both // 2), dtype=gate_up.dtype, device=gate_up.device)
    if num_rows:
        gate_kernel[(num_rows, triton.cdiv(both // 2, BLOCK))](
            gate_up, out, both // 2, BLOCK=BLOCK, UNIT=GATE_UP_INTERLEAVE,
            IS_SILU=activation == "silu", num_warps=4,
        )  # fmt: skip
    return out
