"""Fused linears, in numpy: dequantized weights times float activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from headrace.core.frozen import frozen
from headrace.ops.protocol import GATE_UP_INTERLEAVE
from headrace.ops.reference.norm import Floats
from headrace.quant.quant_tensor import QuantTensor


@frozen
class Linear:
    """A fused matrix and its bias. Shapes: weight [out, in], bias [out] or None."""

    weight: Floats
    bias: Floats | None


def pack_linear(
    parts: Sequence[QuantTensor],
    biases: Sequence[QuantTensor | None] | None,
    interleave: bool,
    dtype: DTypeLike,
) -> Linear:
    """Fuse parts along `out`; see Ops.pack_linear."""
    weight = _fuse([part.dequantize() for part in parts], interleave).astype(dtype)
    if biases is None or all(bias is None for bias in biases):
        return Linear(weight, None)
    rows = [
        np.zeros(part.shape[0], np.float32) if bias is None else bias.dequantize().reshape(-1)
        for part, bias in zip(parts, biases, strict=True)
    ]
    return Linear(weight, _fuse(rows, interleave).astype(dtype))


def _fuse(parts: Sequence[Floats], interleave: bool) -> Floats:
    """Concatenate along the first axis, or alternate units of GATE_UP_INTERLEAVE of two parts."""
    if not interleave:
        return np.concatenate(parts)
    units = [part.reshape(-1, GATE_UP_INTERLEAVE, *part.shape[1:]) for part in parts]
    return np.stack(units, axis=1).reshape(-1, *parts[0].shape[1:])


def linear(x: Floats, weight: Linear) -> Floats:
    """x @ weight.T + bias. Shapes: [T, in] -> [T, out]."""
    y: Floats = x @ weight.weight.T
    if weight.bias is not None:
        y += weight.bias
    return y
