"""Floats of 8 bits, e4m3: 4 bits of exponent, 3 of mantissa, up to 448, no infinities.

In: float32, or the codes and scales of a checkpoint. Out: codes, or the rows of format F8_E4M3:
codes, then the row's scale in float32. Knows nothing of files or devices.
Source: arXiv 2209.05433, table 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Floats = NDArray[np.float32]

MAX_FLOAT8 = np.float32(448)
SMALLEST_NORMAL = np.float32(2.0**-6)
TINIEST = np.float32(2.0**-100)
"""Rows without a larger value become zero: 448 over it would not be finite."""
NAN_CODE = np.uint8(0x7F)


def _all_values() -> Floats:
    """What each code stands for: its bits are those of a float16 of another bias."""
    codes = np.arange(256, dtype=np.uint16)
    halves = ((codes & 0x80) << 8 | (codes & 0x7F) << 7).view(np.float16)
    values: Floats = halves.astype(np.float32) * np.float32(256)
    values[(codes & 0x7F) == NAN_CODE] = np.nan
    return values


VALUES = _all_values()


def encode(x: Floats) -> Codes:
    """Round to the nearest, ties to even; beyond 448 is 448, a NaN stays one."""
    size = np.minimum(np.abs(x), MAX_FLOAT8)
    bits = size.view(np.uint32)
    # Bits 20 and up are float32's exponent and the three bits that stay; biases are 127 and 7.
    rounded = (bits + np.uint32(0x7FFFF) + ((bits >> np.uint32(20)) & np.uint32(1))) >> 20
    with np.errstate(invalid="ignore"):
        small = np.rint(size * np.float32(512)).astype(np.uint32)
    codes = np.where(size < SMALLEST_NORMAL, small, rounded - np.uint32(120 << 3))
    codes = np.where(np.isnan(x), np.uint32(NAN_CODE), codes)
    signs = (np.ascontiguousarray(x).view(np.uint32) >> np.uint32(24)) & np.uint32(0x80)
    result: Codes = (codes | signs).astype(np.uint8)
    return result


def encode_rows(x: Floats) -> tuple[Codes, Floats]:
    """Codes and the scale of each row, which takes its largest value to 448.

    Shapes: x [.., in] -> codes [.., in], scales [..].
    """
    top = np.abs(x).max(axis=-1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        factor = np.where(top > TINIEST, MAX_FLOAT8 / top, np.float32(0)).astype(np.float32)
        codes = encode(np.ascontiguousarray(x * factor[..., None], np.float32))
    return codes, (top / MAX_FLOAT8).astype(np.float32)


def join_rows(codes: Codes, scales: Floats) -> Codes:
    """Rows of F8_E4M3. Shapes: codes [rows, in], scales [rows] -> [rows, in + 4]."""
    tails = np.ascontiguousarray(scales, "<f4").view(np.uint8).reshape(-1, 4)
    return np.concatenate([codes, tails], axis=1)


def split_rows(data: Codes) -> tuple[Codes, Floats]:
    """Codes, a view, and scales. Shapes: [rows, in + 4] -> [rows, in], [rows]."""
    scales: Floats = np.ascontiguousarray(data[:, -4:]).view("<f4").reshape(-1)
    return data[:, :-4], scales


def dequantize(data: Codes, out: Floats) -> None:
    """Write the weights of rows. Shapes: data [rows, in + 4], out [rows, in]. Mutates: out."""
    codes, scales = split_rows(data)
    np.take(VALUES, codes, out=out)
    out *= scales[:, None]
