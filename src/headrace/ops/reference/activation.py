"""silu_mul and gelu_mul, in numpy, over gate and up columns that alternate in units of 16."""

from __future__ import annotations

import numpy as np

from headrace.ops.protocol import GATE_UP_INTERLEAVE
from headrace.ops.reference.norm import Floats


def split_gate_up(gate_up: Floats) -> tuple[Floats, Floats]:
    """Undo the interleave. Shapes: [T, 2F] -> gate, up [T, F].

    Raises: ValueError where F is not a multiple of GATE_UP_INTERLEAVE.
    """
    num_rows, width = gate_up.shape
    if width % (2 * GATE_UP_INTERLEAVE):
        raise ValueError(
            f"gate_up has {width} columns; allowed: multiples of {2 * GATE_UP_INTERLEAVE}."
        )
    parts = gate_up.reshape(num_rows, width // (2 * GATE_UP_INTERLEAVE), 2, GATE_UP_INTERLEAVE)
    shape = (num_rows, width // 2)
    return parts[:, :, 0].reshape(shape), parts[:, :, 1].reshape(shape)


def silu_mul(gate_up: Floats) -> Floats:
    """silu(gate) * up. Shapes: [T, 2F] -> [T, F]. Source: arXiv 2002.05202."""
    gate, up = split_gate_up(gate_up)
    with np.errstate(over="ignore"):  # exp of a large -gate is inf, and gate / inf is the limit
        result: Floats = gate / (1 + np.exp(-gate)) * up
    return result


def gelu_mul(gate_up: Floats) -> Floats:
    """gelu_tanh(gate) * up. Shapes: [T, 2F] -> [T, F]. Source: arXiv 1606.08415, section 2."""
    gate, up = split_gate_up(gate_up)
    with np.errstate(over="ignore", under="ignore"):
        inner = gate.dtype.type(np.sqrt(2 / np.pi)) * (
            gate + gate.dtype.type(0.044715) * gate * gate * gate
        )
        result: Floats = gate.dtype.type(0.5) * gate * (1 + np.tanh(inner)) * up
    return result
