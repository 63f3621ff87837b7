"""The arithmetic of quantized linears, bit for bit, in numpy: what every CPU kernel must give.

In: float32 activations and a QuantTensor. Out: the float32 that the kernels compute, down to the
last bit (docs/design/0001-canonical-arithmetic.md). For tests and for proving an answer; slow.
Knows nothing of packing, panels or threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.frozen import frozen
from headrace.quant.gguf_blocks import BlockIntegers
from headrace.quant.quant_tensor import QuantTensor

GROUP_SIZE = 32
SMALLEST_MAXIMUM = np.float32(2.0**-110)
"""A group whose largest magnitude is below is taken as zero: 127 / maximum would overflow."""

Float32 = NDArray[np.float32]


@frozen
class QuantizedRows:
    """Activations as integers. Shapes: values [M, g, 32] int32; scales [M, g]."""

    values: NDArray[np.int32]
    scales: Float32


def quantize_rows(x: Float32) -> QuantizedRows:
    """Round each group of 32 to -127..127 times maximum / 127.

    A group with a NaN or an infinity gets a NaN scale. Shapes: x [M, K].
    """
    groups = np.ascontiguousarray(x, dtype=np.float32).reshape(x.shape[0], -1, GROUP_SIZE)
    maximum = np.abs(groups).max(axis=-1)
    is_finite = np.isfinite(groups).all(axis=-1)
    is_used = is_finite & (maximum >= SMALLEST_MAXIMUM)
    safe = np.where(is_used, maximum, np.float32(1))
    inverse = np.where(is_used, np.float32(127) / safe, np.float32(0))
    finite = np.where(is_used[..., None], groups, np.float32(0))
    values = np.rint(finite * inverse[..., None]).astype(np.int32)
    scales = np.where(is_used, maximum, np.float32(0)) / np.float32(127)
    return QuantizedRows(values, np.where(is_finite, scales, np.float32(np.nan)))


def canonical_linear(x: Float32, weight: QuantTensor, bias: Float32 | None = None) -> Float32:
    """x @ weight.T + bias as the kernels compute it.

    Shapes: x [M, K]; weight [N, K] quantized, scales per 16 or 32; bias [N] -> [M, N].
    Raises: ValueError for formats that are multiplied as floats (f32, f16, bf16, q2_k).
    """
    if not weight.format.is_quantized or weight.format.name == "q2_k":
        raise ValueError(f"{weight.format.name} weights are multiplied as floats")
    rows = quantize_rows(x)
    integers = weight.integers()
    scales, minima = _group_scales(integers)
    q = (integers.q.astype(np.int32) - integers.zero).reshape(weight.shape[0], -1, GROUP_SIZE)
    halves = 2 if integers.group_size == 16 else 1
    width = GROUP_SIZE // halves
    y = np.zeros((x.shape[0], weight.shape[0]), np.float32)
    z = np.zeros_like(y)
    with np.errstate(invalid="ignore"):  # NaN rows stay NaN
        for g in range(q.shape[1]):
            for half in range(halves):
                part = slice(half * width, (half + 1) * width)
                sums = rows.values[:, g, part] @ q[:, g, part].T  # [M, N] int32, exact
                weight_scale = scales[:, g * halves + half]
                y = fma(np.outer(rows.scales[:, g], weight_scale), sums.astype(np.float32), y)
            if minima is not None:
                total = rows.values[:, g].sum(axis=-1).astype(np.float32) * rows.scales[:, g]
                z = fma(np.broadcast_to(minima[:, g], z.shape), total[:, None], z)
        if minima is not None:
            y = y - z
    return y if bias is None else y + bias


def _group_scales(integers: BlockIntegers) -> tuple[Float32, Float32 | None]:
    """Scales per group of the format and minima per 32, exact products. Shapes: [N, groups]."""
    d = integers.d.astype(np.float32)
    per_block = 1 if integers.sc is None else integers.sc.shape[1] // d.shape[1]
    scales = np.repeat(d, per_block, axis=1)
    if integers.sc is not None:
        scales = scales * integers.sc.astype(np.float32)
    if integers.m is not None:
        return scales, -integers.m.astype(np.float32)
    if integers.dmin is None or integers.mn is None:
        return scales, None
    dmin = np.repeat(integers.dmin.astype(np.float32), per_block, axis=1)
    return scales, dmin * integers.mn.astype(np.float32)


def fma(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> Float32:
    """a * b + c of float32 arrays, rounded once.

    The product is exact in float64. The sum is rounded to odd there, so that rounding it again to
    float32 gives what one rounding would.
    Source: Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008.
    """
    product = np.multiply(a, b, dtype=np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    bits = total.view(np.int64)
    is_even = (bits & 1) == 0
    # One step away from zero where error and total agree in sign, towards it where they do not.
    step = np.where((error > 0) == (total > 0), 1, -1)
    is_inexact = (error != 0) & np.isfinite(error) & is_even
    odd: NDArray[np.float64] = np.where(is_inexact, bits + step, bits).view(np.float64)
    return odd.astype(np.float32)
