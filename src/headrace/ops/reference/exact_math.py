"""exp, log and noise as fixed sequences of float32 operations: the same bits on every device.

Plain multiplications and additions only, in this order, no fused ones: numpy, C++ without
contraction and any vector unit agree on each bit. `csrc/cpu/kernels/exact_math.inl` is the same
code. Knows nothing of logits or requests.
Source: polynomials of Cephes expf and logf; mixer constants of hash-prospector (lowbias32).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.ops.step_inputs import Float32, UInt32

LOWEST_EXP = np.float32(-87.0)
"""Below, exp32 is 0: the result would not be a normal float32."""

_LOG2E = np.float32(1.44269504)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_SQRT_HALF = np.float32(0.70710678)
_EXP_TERMS = tuple(
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
_LOG_TERMS = tuple(
    np.float32(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
_MASK64 = (1 << 64) - 1
_GOLDEN64 = 0x9E3779B97F4A7C15


def exp32(x: Float32) -> Float32:
    """exp(x) for x <= 0, at most 2 units in the last place off; 0 below LOWEST_EXP."""
    x = np.maximum(x, np.float32(-100.0))
    n = np.rint(x * _LOG2E)
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    y = np.full_like(r, _EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        y = y * r + term
    y = y * (r * r) + r
    y = y + np.float32(1.0)
    power = np.maximum(n.astype(np.int32) + 127, 0) << 23
    result: Float32 = np.where(x < LOWEST_EXP, np.float32(0.0), y * power.view(np.float32))
    return result


def log32(x: Float32) -> Float32:
    """log(x) for normal x > 0."""
    bits = x.view(np.uint32)
    exponent = (bits >> 23).astype(np.int32) - 126
    mantissa = ((bits & np.uint32(0x007FFFFF)) | np.uint32(0x3F000000)).view(np.float32)
    is_low = mantissa < _SQRT_HALF
    exponent = exponent - is_low
    mantissa = np.where(is_low, mantissa + mantissa, mantissa) - np.float32(1.0)
    return _log1p_scaled(mantissa, exponent.astype(np.float32))


def _log1p_scaled(f: Float32, exponent: Float32) -> Float32:
    """exponent * ln 2 + log(1 + f) for f in sqrt(1/2)-1 .. sqrt(2)-1."""
    z = f * f
    y = np.full_like(f, _LOG_TERMS[0])
    for term in _LOG_TERMS[1:]:
        y = y * f + term
    y = y * (f * z)
    y = y + exponent * _LN2_LOW
    y = y - z * np.float32(0.5)
    return (f + y) + exponent * _LN2_HIGH


def row_key(seed: int, position: int) -> tuple[int, int]:
    """The two 32-bit keys of a row's noise."""
    mixed = _mix64((seed + _GOLDEN64) & _MASK64)
    mixed = _mix64((mixed + (position + 1) * _GOLDEN64) & _MASK64)
    return mixed & 0xFFFFFFFF, mixed >> 32


def _mix64(x: int) -> int:
    """splitmix64's finalizer."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def noise_bits(token_ids: NDArray[np.integer], key: tuple[int, int]) -> UInt32:
    """32 uniform bits per token id."""
    x: UInt32 = token_ids.astype(np.uint32) * np.uint32(0x9E3779B1) + np.uint32(key[0])
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x21F0AAAD)
    x = x ^ np.uint32(key[1])
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x735A2D97)
    x = x ^ (x >> np.uint32(15))
    return x


def gumbel(bits: UInt32) -> Float32:
    """-log(-log(1 - v)) of the uniform v that `bits` stand for; -3 .. 22."""
    unit = np.float32(2.0**-32)
    v = (bits | np.uint32(1)).astype(np.float32) * unit
    rest = (~bits | np.uint32(1)).astype(np.float32) * unit
    near_zero = np.minimum(v, np.float32(0.25))  # 1 - v would lose the small v that win draws
    small = _log1p_scaled(-near_zero, np.zeros_like(v))
    exponential = -np.where(v < np.float32(0.25), small, log32(rest))
    return -log32(exponential)
