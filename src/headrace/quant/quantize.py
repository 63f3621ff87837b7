"""Round-to-nearest quantizers: float32 -> QuantTensor in any format of the table.

In: floats. Out: blocks. The formats of 32 weights give the bits of ggml's reference quantizers;
the formats of 256 take each group's range as it is, without ggml's search for better scales, so
they are valid and a little less accurate. Good for small models and tests; a file meant for use is
better quantized with an importance matrix.
Source: ggml, src/ggml-quants.c, quantize_row_*_ref.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.quant import float8
from headrace.quant.format import F8_E4M3, FORMATS, QuantFormat
from headrace.quant.gguf_blocks import IQ4_NL_LEVELS, BlockIntegers
from headrace.quant.gguf_pack import pack
from headrace.quant.quant_tensor import QuantTensor

Floats = NDArray[np.float32]


def quantize(array: NDArray[np.floating[Any]], format_name: str) -> QuantTensor:
    """Round floats to a format, rows independently.

    Shapes: array [.., in], in a multiple of the format's block.
    Raises: ValueError for an unknown format, a width that blocks do not fill, or weights that are
    not finite or too large for float16, of which f16 and scales are.
    """
    fmt = F8_E4M3 if format_name == F8_E4M3.name else FORMATS.get(format_name)
    if fmt is None:
        raise ValueError(f"format {format_name!r}; allowed: {', '.join(FORMATS)}")
    shape = tuple(array.shape)
    row_bytes = fmt.row_bytes(shape[-1])
    x = np.ascontiguousarray(array, dtype=np.float32).reshape(-1, shape[-1])
    if not np.isfinite(x).all():
        raise ValueError("weights to quantize must be finite")
    if fmt is F8_E4M3:
        return QuantTensor(fmt, shape, float8.join_rows(*float8.encode_rows(x)))
    raw = _round_blocks(fmt, x) if fmt.is_quantized else _narrow(fmt, x)
    return QuantTensor(fmt, shape, raw.reshape(math.prod(shape[:-1]), row_bytes))


def _narrow(fmt: QuantFormat, x: Floats) -> NDArray[np.uint8]:
    if fmt.name == "bf16":  # to nearest, ties to even, in integers
        bits = x.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16
        return rounded.astype(np.uint16).view(np.uint8)
    with np.errstate(over="ignore"):
        narrow = x.astype("<f4" if fmt.name == "f32" else "<f2")
    if not np.isfinite(narrow).all():
        raise ValueError("weights are too large for float16")
    return narrow.view(np.uint8)


def _round_blocks(fmt: QuantFormat, x: Floats) -> NDArray[np.uint8]:
    blocks = x.reshape(x.shape[0], -1, fmt.block_size)  # [rows, blocks, block]
    with np.errstate(over="ignore", invalid="ignore"):  # a scale that overflows is refused below
        integers = _choose(fmt.name, blocks)
    scales = (integers.d, integers.dmin, integers.m)
    if not all(scale is None or np.isfinite(scale).all() for scale in scales):
        raise ValueError(f"weights are too large for {fmt.name}'s float16 scale")
    return pack(fmt, integers)


def _choose(name: str, blocks: Floats) -> BlockIntegers:
    if name == "q8_0":
        return _q8_0(blocks)
    if name == "iq4_nl":
        return _iq4_nl(blocks)
    if name in _SYMMETRIC_32:
        return _symmetric(blocks, _SYMMETRIC_32[name])
    if name in _ASYMMETRIC_32:
        return _asymmetric(blocks, _ASYMMETRIC_32[name])
    if name in _SYMMETRIC_256:
        return _symmetric_super(blocks, *_SYMMETRIC_256[name])
    return _asymmetric_super(blocks, *_ASYMMETRIC_256[name])


_SYMMETRIC_32 = {"q4_0": 8, "q5_0": 16}  # zero
_ASYMMETRIC_32 = {"q4_1": 15, "q5_1": 31}  # largest q
_SYMMETRIC_256 = {"q3_k": (4, 32), "q6_k": (32, 128)}  # zero, least scale negated
_ASYMMETRIC_256 = {"q2_k": (16, 3, 15), "q4_k": (32, 15, 63), "q5_k": (32, 31, 63)}  # G, q, sc


def _inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 for groups of zeros and scales too small for float16 to hold."""
    is_usable = np.abs(scale) > np.finfo(np.float32).tiny
    return np.divide(1, scale, out=np.zeros_like(scale), where=is_usable)


def _extreme(x: Floats) -> Floats:
    """The weight of largest magnitude along the last axis, with its sign."""
    at = np.abs(x).argmax(axis=-1, keepdims=True)
    return np.take_along_axis(x, at, axis=-1)


def _rows(values: NDArray[Any]) -> NDArray[Any]:
    """[rows, blocks, n] -> [rows, blocks * n]."""
    return values.reshape(values.shape[0], -1)


def _half(values: Floats) -> NDArray[np.float16]:
    return _rows(values).astype(np.float16)


def _q8_0(x: Floats) -> BlockIntegers:
    d = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    scaled = x * _inverse(d)
    # C's roundf: halves go away from zero.
    q = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled)
    return BlockIntegers(32, 0, _rows(q).astype(np.int16), _half(d))


def _symmetric(x: Floats, zero: int) -> BlockIntegers:
    d = _extreme(x) / np.float32(-zero)
    q = np.trunc(x * _inverse(d) + np.float32(zero + 0.5)).clip(0, 2 * zero - 1)
    return BlockIntegers(32, zero, _rows(q).astype(np.int16), _half(d))


def _asymmetric(x: Floats, largest: int) -> BlockIntegers:
    low = x.min(axis=-1, keepdims=True)
    d = (x.max(axis=-1, keepdims=True) - low) / np.float32(largest)
    q = np.trunc((x - low) * _inverse(d) + np.float32(0.5)).clip(0, largest)
    return BlockIntegers(32, 0, _rows(q).astype(np.int16), _half(d), m=_half(low))


def _iq4_nl(x: Floats) -> BlockIntegers:
    d = _extreme(x) / np.float32(IQ4_NL_LEVELS[0])
    levels = IQ4_NL_LEVELS.astype(np.float32)
    middles = (levels[1:] + levels[:-1]) / np.float32(2)
    q = IQ4_NL_LEVELS[np.searchsorted(middles, x * _inverse(d))]
    return BlockIntegers(32, 0, _rows(q), _half(d))


def _symmetric_super(x: Floats, zero: int, least: int) -> BlockIntegers:
    groups = x.reshape(*x.shape[:2], -1, 16)
    scale = (_extreme(groups) / np.float32(-zero))[..., 0]  # [rows, blocks, groups]
    d = _extreme(scale) / np.float32(-least)
    sc = np.rint(scale * _inverse(d)).clip(-least, least - 1)
    exact = (d.astype(np.float16).astype(np.float32) * sc)[..., None]
    q = np.rint(groups * _inverse(exact)).clip(-zero, zero - 1) + zero
    integer_q, integer_sc = _rows(q).astype(np.int16), _rows(sc).astype(np.int16)
    return BlockIntegers(16, zero, integer_q, _half(d), integer_sc)


def _asymmetric_super(x: Floats, group_size: int, largest: int, most: int) -> BlockIntegers:
    groups = x.reshape(*x.shape[:2], -1, group_size)
    # A minimum is stored as a magnitude to subtract, so the range always reaches down to 0.
    low = np.minimum(groups.min(axis=-1), np.float32(0))  # [rows, blocks, groups]
    scale = (groups.max(axis=-1) - low) / np.float32(largest)
    d = scale.max(axis=-1, keepdims=True) / np.float32(most)
    dmin = -low.min(axis=-1, keepdims=True) / np.float32(most)
    sc = np.rint(scale * _inverse(d)).clip(0, most)
    mn = np.rint(-low * _inverse(dmin)).clip(0, most)
    exact = (d.astype(np.float16).astype(np.float32) * sc)[..., None]
    offset = (dmin.astype(np.float16).astype(np.float32) * mn)[..., None]
    q = np.rint((groups + offset) * _inverse(exact)).clip(0, largest)
    return BlockIntegers(
        group_size,
        0,
        _rows(q).astype(np.int16),
        _half(d),
        _rows(sc).astype(np.int16),
        _half(dmin),
        _rows(mn).astype(np.int16),
    )
