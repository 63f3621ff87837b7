"""exp, log and noise of `ops/reference/exact_math.py`, operation by operation, in Triton.

Kernels that call these are launched without fused multiply-adds, so that a row draws the token the
other devices draw.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exp32(x):
    """exp(x) for x <= 0; 0 below -87."""
    is_low = x < -87.0
    x = tl.maximum(x, -100.0)
    # Adding 1.5 * 2^23 leaves no bits after the point: rounding to even.
    n = (x * 1.44269504 + 12582912.0) - 12582912.0
    r = x - n * 0.693359375
    r = r - n * -2.12194440e-4
    y = tl.full(x.shape, 1.9875691500e-4, tl.float32)
    y = y * r + 1.3981999507e-3
    y = y * r + 8.3334519073e-3
    y = y * r + 4.1665795894e-2
    y = y * r + 1.6666665459e-1
    y = y * r + 5.0000001201e-1
    y = y * (r * r) + r
    y = y + 1.0
    power = tl.maximum(n.to(tl.int32) + 127, 0) << 23
    return tl.where(is_low, 0.0, y * power.to(tl.float32, bitcast=True))


@triton.jit
def _log1p_scaled(f, exponent):
    """exponent * ln 2 + log(1 + f) for f in sqrt(1/2)-1 .. sqrt(2)-1."""
    z = f * f
    y = tl.full(f.shape, 7.0376836292e-2, tl.float32)
    y = y * f + -1.1514610310e-1
    y = y * f + 1.1676998740e-1
    y = y * f + -1.2420140846e-1
    y = y * f + 1.4249322787e-1
    y = y * f + -1.6668057665e-1
    y = y * f + 2.0000714765e-1
    y = y * f + -2.4999993993e-1
    y = y * f + 3.3333331174e-1
    y = y * (f * z)
    y = y + exponent * -2.12194440e-4
    y = y - z * 0.5
    return (f + y) + exponent * 0.693359375


@triton.jit
def log32(x):
    """log(x) for normal x > 0."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits >> 23) - 126
    mantissa = ((bits & 0x007FFFFF) | 0x3F000000).to(tl.float32, bitcast=True)
    is_low = mantissa < 0.70710678
    exponent = exponent - is_low.to(tl.int32)
    mantissa = tl.where(is_low, mantissa + mantissa, mantissa) - 1.0
    return _log1p_scaled(mantissa, exponent.to(tl.float32))


@triton.jit
def _mix64(x):
    """splitmix64's finalizer. x uint64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def row_keys(seed, position):
    """The two 32-bit keys of a row's noise. seed uint64, position int64."""
    mixed = _mix64(seed + 0x9E3779B97F4A7C15)
    mixed = _mix64(mixed + (position.to(tl.uint64) + 1) * 0x9E3779B97F4A7C15)
    return (mixed & 0xFFFFFFFF).to(tl.uint32), (mixed >> 32).to(tl.uint32)


@triton.jit
def gumbel(token_ids, low_key, high_key):
    """Gumbel noise of each token id of a row."""
    x = token_ids.to(tl.uint32) * 0x9E3779B1 + low_key
    x = x ^ (x >> 16)
    x = x * 0x21F0AAAD
    x = x ^ high_key
    x = x ^ (x >> 15)
    x = x * 0x735A2D97
    x = x ^ (x >> 15)
    v = (x | 1).to(tl.float32) * 2.3283064365386963e-10  # 2^-32
    rest = ((x ^ 0xFFFFFFFF) | 1).to(tl.float32) * 2.3283064365386963e-10
    near_zero = tl.minimum(v, 0.25)
    small = _log1p_scaled(-near_zero, tl.zeros_like(v))
    exponential = -tl.where(v < 0.25, small, log32(rest))
    return -log32(exponential)
