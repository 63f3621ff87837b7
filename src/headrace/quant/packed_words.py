"""Integers that AWQ, GPTQ and compressed-tensors keep in 32-bit words, and the blocks they become.

In: words, zero points, scales. Out: unsigned integers, then a tensor in one of our formats. The
integers and zero points are kept exactly, scales as float16, which is how most of these files have
them; a wider one is rounded by at most 0.05 percent.
Source: AutoAWQ, awq/utils/packing_utils.py; AutoGPTQ, auto_gptq/nn_modules/qlinear;
compressed-tensors, compressors/pack_quantized/helpers.py (orders inside a word).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.core.frozen import frozen
from headrace.quant.format import FORMATS
from headrace.quant.gguf_blocks import BlockIntegers
from headrace.quant.gguf_pack import pack
from headrace.quant.quant_tensor import QuantTensor

_BLOCK = 32
# Where the eight nibbles of a word go, by their place in the word.
_AWQ_ORDER = np.array([0, 4, 1, 5, 2, 6, 3, 7])


@frozen
class GroupScales:
    """How the integers of a matrix become weights: w = (q - zeros) * scales, by group of columns.

    Shapes: zeros [out, groups] int16; scales [out, groups]; group_of [in] says which group each
    column belongs to, None when groups are runs of columns. `width` is `in`.
    """

    bits: int
    width: int
    zeros: NDArray[np.int16]
    scales: NDArray[np.float32]
    group_of: NDArray[np.int64] | None = None

    @property
    def format_name(self) -> str:
        """The format that holds the integers without rounding.

        Raises: ValueError for 8 bits with a zero point other than the middle.
        """
        middle = 1 << (self.bits - 1)
        is_symmetric = bool((self.zeros == middle).all())
        if self.bits == 8 and not is_symmetric:
            raise ValueError("8 bits with zero points, which need 9 bits")
        if self.group_of is not None:
            return "f16"
        if self.bits == 8:
            return "q8_0"
        # q - zero has 5 bits when the zero point is not the middle.
        return "q4_0" if is_symmetric else "q5_0"


def unpack_words(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """Integers of `bits` 4 or 8, lowest bits first. Shapes: [rows, n] -> [rows, 32 / bits * n].

    Raises: ValueError for words of another type or rank.
    """
    if words.dtype != np.int32 or words.ndim != 2:
        raise ValueError(f"words of {words.dtype} in {words.ndim} axes, not int32 in 2")
    octets = np.ascontiguousarray(words).view("<i4").view(np.uint8).reshape(len(words), -1)
    if bits == 8:
        return octets
    integers = np.empty((len(words), 2 * octets.shape[1]), np.uint8)
    np.bitwise_and(octets, 15, out=integers[:, 0::2])
    np.right_shift(octets, 4, out=integers[:, 1::2])
    return integers


def unpack_awq_words(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """4-bit integers in AWQ's order. Shapes: [rows, n] -> [rows, 8 n]."""
    integers = unpack_words(words, 4)
    ordered: NDArray[np.uint8] = integers.reshape(len(words), -1, 8)[..., _AWQ_ORDER]
    return ordered.reshape(integers.shape)


def to_tensor(q: NDArray[np.uint8], groups: GroupScales) -> QuantTensor:
    """The matrix in blocks of 32 columns, each with its group's scale; float16 if scattered.

    Shapes: q [out, in] -> [out, in].
    Raises: ValueError for groups that blocks of 32 do not fill, 8 bits with zero points, and
        scales that float16 does not reach.
    """
    name = groups.format_name
    if groups.group_of is not None:
        return _to_halves(q, groups, groups.group_of)
    rows, width = q.shape
    num_groups = groups.scales.shape[1]
    size = width // num_groups
    if size % _BLOCK or size * num_groups != width:
        raise ValueError(f"groups of {size} columns; allowed are multiples of {_BLOCK}")
    with np.errstate(over="ignore"):
        scales = groups.scales.astype(np.float16)
    if not np.isfinite(scales).all():
        raise ValueError("scales that are not finite in float16")
    zero = {"q4_0": 8, "q5_0": 16, "q8_0": 0}[name]
    integers = q.reshape(rows, num_groups, size) - groups.zeros[..., None] + np.int16(zero)
    d = np.repeat(scales, size // _BLOCK, axis=1)
    fmt = FORMATS[name]
    blocks = BlockIntegers(_BLOCK, zero, integers.reshape(rows, width), d)
    return QuantTensor(fmt, (rows, width), pack(fmt, blocks))


def _to_halves(
    q: NDArray[np.uint8], groups: GroupScales, group_of: NDArray[np.int64]
) -> QuantTensor:
    floats = q.astype(np.float32) - groups.zeros[:, group_of]
    with np.errstate(over="ignore"):
        halves = (floats * groups.scales[:, group_of]).astype(np.float16)
    if not np.isfinite(halves).all():
        raise ValueError("weights that are not finite in float16")
    return QuantTensor.from_array(halves)
