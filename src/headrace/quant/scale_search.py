"""Chooses the scales of each group so that the weighted squared error is least: slow, offline.

In: floats, a format, perhaps the importance of each column (the mean square of what it multiplies;
without it a weight counts by its size). Out: the same blocks as quantize.py makes, with smaller
errors. For each group some scales around the one that covers its range are tried; each gives
integers, least squares over these gives the best scale (and minimum) for them, and the pair with
the least error is kept.
Source: ggml, src/ggml-quants.c, make_qx_quants and make_qkx2_quants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.quant.format import FORMATS, QuantFormat
from headrace.quant.gguf_blocks import IQ4_NL_LEVELS, BlockIntegers
from headrace.quant.gguf_pack import pack
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize

Floats = NDArray[np.float32]
Rounding = Callable[[Floats], Floats]

_SLICE_WEIGHTS = 1 << 16  # a slice of rows whose temporaries stay in the cache
# Scales tried around the one that covers the range, as steps of the largest integer.
_SYMMETRIC_STEPS = np.arange(-0.9, 0.91, 0.15, dtype=np.float32)
_EIGHT_BIT_STEPS = np.arange(-0.6, 0.61, 0.3, dtype=np.float32)
_ASYMMETRIC_STEPS = np.arange(-1.0, 1.01, 0.15, dtype=np.float32)
_SYMMETRIC_32 = {"q4_0": 8, "q5_0": 16}  # zero
_ASYMMETRIC_32 = {"q4_1": 15, "q5_1": 31}  # largest q
_SYMMETRIC_256 = {"q3_k": (4, 32), "q6_k": (32, 128)}  # zero, least scale negated
_ASYMMETRIC_256 = {"q2_k": (16, 3, 15), "q4_k": (32, 15, 63), "q5_k": (32, 31, 63)}  # G, q, sc
_REFINEMENTS = 2


def search(
    array: NDArray[np.floating[Any]], format_name: str, importance: Floats | None = None
) -> QuantTensor:
    """Round floats to a format, with scales searched for; rows independently.

    Shapes: array [.., in]; importance [in], not negative.
    Raises: ValueError as `quantize` does, and for an importance that does not fit.
    """
    fmt = FORMATS.get(format_name)
    if fmt is None or not fmt.is_quantized:
        return quantize(array, format_name)
    row_bytes = fmt.row_bytes(array.shape[-1])
    x = np.ascontiguousarray(array, dtype=np.float32).reshape(-1, array.shape[-1])
    if not np.isfinite(x).all():
        raise ValueError("weights to quantize must be finite")
    columns = None if importance is None else column_weights(importance, x.shape[1])
    data = np.empty((len(x), row_bytes), np.uint8)
    step = max(1, _SLICE_WEIGHTS // x.shape[1])
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        weights = magnitude_weights(rows) if columns is None else columns
        data[start : start + step] = pack(fmt, choose_blocks(fmt, rows, weights))
    return QuantTensor(fmt, tuple(array.shape), data.reshape(math.prod(array.shape[:-1]), -1))


def weighted_error(x: Floats, tensor: QuantTensor, importance: Floats | None = None) -> float:
    """Error of a tensor's rows over their size: the noise to signal ratio of its products.

    Shapes: x [rows, in]; importance [in].
    """
    weights = column_weights(importance, x.shape[-1])
    flat = x.reshape(-1, x.shape[-1])
    noise = tensor.dequantize().reshape(flat.shape) - flat
    size = float(np.einsum("ij,ij,j->", flat, flat, weights, dtype=np.float64))
    lost = float(np.einsum("ij,ij,j->", noise, noise, weights, dtype=np.float64))
    return lost / size if size > 0 else 0.0


def column_weights(importance: Floats | None, width: int) -> Floats:
    """Importance as weights of errors: about 1 in the mean, and nowhere 0.

    Shapes: -> [width]. Raises: ValueError for an importance that does not fit.
    """
    if importance is None:
        return np.ones(width, np.float32)
    is_good = importance.shape == (width,) and np.isfinite(importance).all()
    if not is_good or importance.min() < 0:
        raise ValueError(f"importance is {width} finite numbers of at least 0")
    # A column that calibration never saw still counts a little, and the scale of all does not.
    mean = float(importance.mean()) or 1.0
    scaled: Floats = (importance / np.float32(mean)).astype(np.float32)
    return scaled + np.float32(1e-4)


def magnitude_weights(x: Floats) -> Floats:
    """What errors weigh where nothing is known of the columns: large weights count more.

    Shapes: x [rows, in] -> the same. Source: ggml, src/ggml-quants.c, quantize_row_q4_K_ref.
    """
    squares = np.einsum("ij,ij->i", x, x, dtype=np.float64) / x.shape[1]
    per_size = inverse(np.sqrt(squares).astype(np.float32))
    return np.float32(1) + np.abs(x) * per_size[:, None]


def choose_blocks(fmt: QuantFormat, x: Floats, weights: Floats) -> BlockIntegers:
    """Scales and integers of rows of whole blocks, errors weighed by column or by weight.

    Shapes: x [rows, in]; weights [in] or as x.
    Raises: ValueError for weights beyond float16's scales.
    """
    blocks = x.reshape(len(x), -1, fmt.block_size)
    w = np.broadcast_to(weights, x.shape).reshape(blocks.shape)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        integers = _choose(fmt.name, blocks, w)
    for scale in (integers.d, integers.dmin, integers.m):
        if scale is not None and not np.isfinite(scale).all():
            raise ValueError(f"weights are too large for {fmt.name}'s float16 scale")
    return integers


def rounding_of(fmt: QuantFormat) -> Rounding:
    """What takes (w - offset) / scale to q - zero, as stored; may overwrite its argument."""
    if fmt.name in _SYMMETRIC_32:
        zero = _SYMMETRIC_32[fmt.name]
        return _clip(zero, zero - 1)
    if fmt.name in _SYMMETRIC_256:
        zero, _ = _SYMMETRIC_256[fmt.name]
        return _clip(zero, zero - 1)
    if fmt.name in _ASYMMETRIC_256:
        return _clip(0, _ASYMMETRIC_256[fmt.name][1])
    if fmt.name in _ASYMMETRIC_32:
        return _clip(0, _ASYMMETRIC_32[fmt.name])
    return _to_levels if fmt.name == "iq4_nl" else _clip(127, 127)


def _choose(name: str, x: Floats, w: Floats) -> BlockIntegers:
    if name == "q8_0":
        return _symmetric(x, w, _clip(127, 127), 127, 0, _EIGHT_BIT_STEPS)
    if name == "iq4_nl":
        return _symmetric(x, w, _to_levels, 127, 0, _SYMMETRIC_STEPS * np.float32(8))
    if name in _SYMMETRIC_32:
        zero = _SYMMETRIC_32[name]
        return _symmetric(x, w, _clip(zero, zero - 1), zero, zero, _SYMMETRIC_STEPS)
    if name in _ASYMMETRIC_32:
        return _asymmetric(x, w, _ASYMMETRIC_32[name])
    if name in _SYMMETRIC_256:
        return _symmetric_super(x, w, *_SYMMETRIC_256[name])
    return _asymmetric_super(x, w, *_ASYMMETRIC_256[name])


def _clip(below: int, above: int) -> Rounding:
    def to_integers(x: Floats) -> Floats:
        np.rint(x, out=x)
        clipped: Floats = np.clip(x, -below, above, out=x)
        return clipped

    return to_integers


def _to_levels(x: Floats) -> Floats:
    levels = IQ4_NL_LEVELS.astype(np.float32)
    middles = (levels[1:] + levels[:-1]) / np.float32(2)
    found: Floats = levels[np.searchsorted(middles, x)]
    return found


def inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where that has no use."""
    is_usable = np.abs(scale) > np.finfo(np.float32).tiny
    return np.divide(1, scale, out=np.zeros_like(scale), where=is_usable)


def _dot(*factors: Floats) -> Floats:
    """Sum of products over the last axis. Shapes: [.., G] each -> [..]."""
    found: Floats = np.einsum(",".join(["...i"] * len(factors)) + "->...", *factors)
    return found


def _rows(values: NDArray[Any]) -> NDArray[Any]:
    """[rows, blocks, n] -> [rows, blocks * n]."""
    return values.reshape(values.shape[0], -1)


def _integers(values: NDArray[Any]) -> NDArray[np.int16]:
    found: NDArray[np.int16] = _rows(values).astype(np.int16)
    return found


def _rounded(scale: Floats) -> Floats:
    """What float16 keeps of it."""
    return scale.astype(np.float16).astype(np.float32)


def best_scales(x: Floats, w: Floats, to_integers: Rounding, most: int, steps: Floats) -> Floats:
    """The scale of each group, of both signs. Shapes: x, w [.., G] -> [..]."""
    at = np.abs(x).argmax(axis=-1, keepdims=True)
    per_extreme = inverse(np.take_along_axis(x, at, axis=-1))
    best = np.zeros(x.shape[:-1], np.float32)
    most_gain = np.zeros_like(best)
    for step in steps:
        q = to_integers(x * (per_extreme * np.float32(-(most + step))))
        weighted = w * q
        along, size = _dot(weighted, x), _dot(weighted, q)
        scale = along * inverse(size)
        gain = scale * along  # what the error is less than sum(w * x * x)
        is_better = gain > most_gain
        np.copyto(best, scale, where=is_better)
        np.copyto(most_gain, gain, where=is_better)
    return best


def best_ranges(x: Floats, w: Floats, largest: int, is_low_free: bool) -> tuple[Floats, Floats]:
    """Scale and least value of each group; the least at most 0 unless free.

    Shapes: x, w [.., G] -> [..], [..].
    """
    low = x.min(axis=-1, keepdims=True)
    if not is_low_free:
        low = np.minimum(low, np.float32(0))
    span = x.max(axis=-1, keepdims=True) - low
    per_span, offset = inverse(span), x - low
    sw, sx = w.sum(axis=-1), _dot(w, x)
    best, best_low = span[..., 0] / np.float32(largest), low[..., 0].copy()
    most_gain = np.full_like(best, -np.inf)
    for step in _ASYMMETRIC_STEPS:
        q = offset * (per_span * np.float32(largest + step))
        np.rint(q, out=q)
        np.clip(q, 0, largest, out=q)
        scale, least, gain = _least_squares(x, w, q, sw, sx, is_low_free)
        is_better = gain > most_gain
        np.copyto(best, scale, where=is_better)
        np.copyto(best_low, least, where=is_better)
        np.copyto(most_gain, gain, where=is_better)
    return best, best_low


def _least_squares(
    x: Floats, w: Floats, q: Floats, sw: Floats, sx: Floats, is_low_free: bool
) -> tuple[Floats, Floats, Floats]:
    """Scale and least value for given integers, and what the error gains; -inf without an answer.

    Shapes: x, w, q [.., G]; sw, sx [..].
    """
    weighted = w * q
    sq, sqq, sxq = weighted.sum(axis=-1), _dot(weighted, q), _dot(weighted, x)
    determinant = sw * sqq - sq * sq
    per_determinant = inverse(determinant)
    scale = (sw * sxq - sx * sq) * per_determinant
    least = (sqq * sx - sq * sxq) * per_determinant
    if not is_low_free:
        is_above = least > 0
        least = np.where(is_above, np.float32(0), least)
        scale = np.where(is_above, sxq * inverse(sqq), scale)
    gain = scale * sxq + least * sx
    gain[(determinant <= 0) | (scale <= 0)] = -np.inf
    return scale, least, gain


def _symmetric(
    x: Floats, w: Floats, to_integers: Rounding, most: int, zero: int, steps: Floats
) -> BlockIntegers:
    d = _rounded(best_scales(x, w, to_integers, most, steps))
    q = to_integers(x * inverse(d)[..., None]) + np.float32(zero)
    return BlockIntegers(32, zero, _integers(q), d.astype(np.float16))


def _asymmetric(x: Floats, w: Floats, largest: int) -> BlockIntegers:
    scale, least = best_ranges(x, w, largest, is_low_free=True)
    d, m = _rounded(scale), _rounded(least)
    q = np.rint((x - m[..., None]) * inverse(d)[..., None]).clip(0, largest)
    return BlockIntegers(32, 0, _integers(q), d.astype(np.float16), m=m.astype(np.float16))


def _symmetric_super(x: Floats, w: Floats, zero: int, least: int) -> BlockIntegers:
    groups = x.reshape(*x.shape[:2], -1, 16)
    group_weights = w.reshape(groups.shape)
    steps = _EIGHT_BIT_STEPS if zero > 16 else _SYMMETRIC_STEPS
    to_integers = _clip(zero, zero - 1)
    scale = best_scales(groups, group_weights, to_integers, zero, steps)
    at = np.abs(scale).argmax(axis=-1, keepdims=True)
    d = _rounded(np.take_along_axis(scale, at, axis=-1) / np.float32(-least))
    sc = np.rint(scale * inverse(d)).clip(-least, least - 1)
    q = to_integers(groups * inverse(d * sc)[..., None]) + np.float32(zero)
    return BlockIntegers(16, zero, _integers(q), _rows(d).astype(np.float16), _integers(sc))


def _asymmetric_super(
    x: Floats, w: Floats, group_size: int, largest: int, most: int
) -> BlockIntegers:
    groups = x.reshape(*x.shape[:2], -1, group_size)
    weights = w.reshape(groups.shape)
    scale, least = best_ranges(groups, weights, largest, is_low_free=False)
    sw, sx = weights.sum(axis=-1), _dot(weights, groups)
    d = _rounded(scale.max(axis=-1, keepdims=True) / np.float32(most))
    dmin = _rounded(-least.min(axis=-1, keepdims=True) / np.float32(most))
    best: tuple[Floats, Floats, Floats] | None = None
    least_error = np.zeros_like(scale)
    for _ in range(1 + _REFINEMENTS):
        sc = np.rint(scale * inverse(d)).clip(0, most)
        mn = np.rint(-least * inverse(dmin)).clip(0, most)
        offset = groups + (dmin * mn)[..., None]
        exact = (d * sc)[..., None]
        q = np.rint(offset * inverse(exact)).clip(0, largest)
        offset -= exact * q
        error = _dot(weights, offset, offset)
        if best is None:
            best, least_error = (sc, mn, q), error
        else:
            is_better = error < least_error
            np.copyto(best[0], sc, where=is_better)
            np.copyto(best[1], mn, where=is_better)
            np.copyto(best[2], q, where=is_better[..., None])
            np.copyto(least_error, error, where=is_better)
        found, low, gain = _least_squares(groups, weights, q, sw, sx, is_low_free=False)
        scale = np.where(np.isfinite(gain), found, scale)
        least = np.where(np.isfinite(gain), low, least)
    sc, mn, q = best  # type: ignore[misc]
    half_d, half_dmin = _rows(d).astype(np.float16), _rows(dmin).astype(np.float16)
    return BlockIntegers(
        group_size, 0, _integers(q), half_d, _integers(sc), half_dmin, _integers(mn)
    )
