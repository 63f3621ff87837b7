"""Activations, in numpy; the gated ones over gate and up columns that alternate in units of 16."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from headrace.ops.protocol import GATE_UP_INTERLEAVE, Activation
from headrace.ops.reference.norm import Floats


def split_gate_up(gate_up: Floats) -> tuple[Floats, Floats]:
    """Undo the interleave. Shapes: [T, 2F] -> gate, up [T, F]. Raises: ValueError."""
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
    """gelu_tanh(gate) * up, as gate * sigmoid(2 * inner), which loses no small results.

    Shapes: [T, 2F] -> [T, F].
    Source: arXiv 1606.08415, section 2; (1 + tanh(x)) / 2 = sigmoid(2x).
    """
    gate, up = split_gate_up(gate_up)
    with np.errstate(over="ignore", under="ignore"):
        cubic = gate + gate.dtype.type(0.044715) * gate * gate * gate
        result: Floats = gate / (1 + np.exp(gate.dtype.type(-np.sqrt(8 / np.pi)) * cubic)) * up
    return result


def gelu(x: Floats) -> Floats:
    """x * (1 + erf(x / sqrt 2)) / 2, through erfc, which loses no small results. Mutates: x.

    Shapes: [T, F] -> [T, F]. Source: arXiv 1606.08415.
    """
    flat = x.reshape(-1)
    flat *= np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in flat.tolist()], x.dtype)
    return x


ACTIVATIONS: Mapping[Activation, Callable[[Floats], Floats]] = {
    "silu": silu_mul,
    "gelu_tanh": gelu_mul,
}


def gate(gate_up: Floats, activation: Activation) -> Floats:
    """activation(gate) * up. Shapes: [T, 2F] -> [T, F]."""
    return ACTIVATIONS[activation](gate_up)
