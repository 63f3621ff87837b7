"""GGUF block layouts: structured dtypes, the exact integers in a block, and their floats.

In: raw blocks, uint8. Out: `BlockIntegers` (what is stored, nothing rounded) or float32.
Every quantized format here is one formula over integers,
    w = (d * sc) * (q - zero) - (dmin * mn)      or      w = d * (q - zero) + m
evaluated in float32 in this order, which gives the bits of ggml's dequantization.
Knows nothing of files, shapes above rows, or packing for kernels.
Source: ggml, src/ggml-common.h (layouts) and src/ggml-quants.c (bit orders).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.core.frozen import frozen
from headrace.quant.format import FORMATS, QuantFormat

Bytes = NDArray[np.uint8]
Blocks = NDArray[np.void]
Half = NDArray[np.float16]

IQ4_NL_LEVELS: NDArray[np.int8] = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.int8
)

_U1, _F2 = np.dtype("u1"), np.dtype("<f2")
BLOCK_DTYPES: dict[str, np.dtype[np.void]] = {
    "q4_0": np.dtype([("d", _F2), ("qs", _U1, 16)]),
    "q4_1": np.dtype([("d", _F2), ("m", _F2), ("qs", _U1, 16)]),
    "q5_0": np.dtype([("d", _F2), ("qh", _U1, 4), ("qs", _U1, 16)]),
    "q5_1": np.dtype([("d", _F2), ("m", _F2), ("qh", _U1, 4), ("qs", _U1, 16)]),
    "q8_0": np.dtype([("d", _F2), ("qs", _U1, 32)]),
    "q2_k": np.dtype([("scales", _U1, 16), ("qs", _U1, 64), ("d", _F2), ("dmin", _F2)]),
    "q3_k": np.dtype([("hmask", _U1, 32), ("qs", _U1, 64), ("scales", _U1, 12), ("d", _F2)]),
    "q4_k": np.dtype([("d", _F2), ("dmin", _F2), ("scales", _U1, 12), ("qs", _U1, 128)]),
    "q5_k": np.dtype(
        [("d", _F2), ("dmin", _F2), ("scales", _U1, 12), ("qh", _U1, 32), ("qs", _U1, 128)]
    ),
    "q6_k": np.dtype([("ql", _U1, 128), ("qh", _U1, 64), ("scales", _U1, 16), ("d", _F2)]),
    "iq4_nl": np.dtype([("d", _F2), ("qs", _U1, 16)]),
}
for _name, _dtype in BLOCK_DTYPES.items():
    assert _dtype.itemsize == FORMATS[_name].block_bytes, _name  # noqa: S101 - our own invariant


@frozen
class BlockIntegers:
    """What blocks hold, exactly. `group_size` weights share a scale; `zero` is q of weight 0.

    Shapes: leading axes as the blocks had them, then
        q [.., in] as stored (unsigned; signed for q8_0, and the level for iq4_nl);
        d, dmin, m [.., in / block_size] float16; sc, mn [.., in / group_size], absent if None.
    w = (d * sc) * (q - zero) - (dmin * mn), with sc = 1 if absent; or w = d * (q - zero) + m.
    """

    group_size: int
    zero: int
    q: NDArray[np.integer[Any]]
    d: Half
    sc: NDArray[np.integer[Any]] | None = None
    dmin: Half | None = None
    mn: NDArray[np.integer[Any]] | None = None
    m: Half | None = None

    def to_float(self) -> NDArray[np.float32]:
        """Evaluate the formula in float32.

        Shapes: [.., in].
        """
        # Damaged scales (inf, nan) give inf and nan, silently, as ggml does.
        with np.errstate(invalid="ignore", over="ignore"):
            grouped = (*self.q.shape[:-1], -1, self.group_size)
            w = self.q.astype(np.float32).reshape(grouped)
            if self.zero:
                w -= np.float32(self.zero)
            w *= _per_group(self.d, self.sc)
            if self.dmin is not None and self.mn is not None:
                w -= _per_group(self.dmin, self.mn)
            if self.m is not None:
                w += self.m.astype(np.float32)[..., None]
            return w.reshape(self.q.shape)


def _per_group(d: Half, sc: NDArray[np.integer[Any]] | None) -> NDArray[np.float32]:
    scale = d.astype(np.float32)
    if sc is None:
        return scale[..., None]
    of_block = sc.astype(np.float32).reshape(*d.shape, -1)
    of_block *= scale[..., None]
    flat: NDArray[np.float32] = of_block.reshape(*d.shape[:-1], -1, 1)
    return flat


def view_blocks(fmt: QuantFormat, data: Bytes) -> Blocks:
    """See bytes as blocks, without a copy.

    Shapes: data [.., blocks * block_bytes] uint8, last axis contiguous -> [.., blocks].
    """
    return data.view(BLOCK_DTYPES[fmt.name])


def unpack(fmt: QuantFormat, data: Bytes) -> BlockIntegers:
    """Take the stored integers out of blocks; q in its narrowest type.

    Shapes: data [rows, row_bytes] uint8.
    """
    return _UNPACK[fmt.name](view_blocks(fmt, data))


class RawTensor(Protocol):
    """What `integers` reads of a QuantTensor, which is built on this module."""

    @property
    def format(self) -> QuantFormat: ...

    @property
    def data(self) -> Bytes: ...


def integers(tensor: RawTensor) -> BlockIntegers:
    """Take out what a quantized tensor stores, exactly, as int16 and float16 arrays.

    Shapes: q [rows, in]; d, dmin, m [rows, in / block_size]; sc, mn [rows, in / group_size].
    Raises: ValueError for a float format.
    """
    if not tensor.format.is_quantized:
        raise ValueError(f"{tensor.format.name} stores floats, not integers with scales")
    raw = unpack(tensor.format, tensor.data)
    return replace(
        raw,
        q=raw.q.astype(np.int16),
        sc=None if raw.sc is None else raw.sc.astype(np.int16),
        mn=None if raw.mn is None else raw.mn.astype(np.int16),
    )


def dequantize(fmt: QuantFormat, data: Bytes, out: NDArray[np.float32]) -> None:
    """Write the weights of quantized or float rows.

    Shapes: data [rows, row_bytes] uint8; out [rows, in] float32, contiguous.
    Mutates: out.
    """
    if not fmt.is_quantized:
        with np.errstate(invalid="ignore"):  # a signalling nan in f16
            out[...] = _widen(fmt, data)
        return
    # A slice of blocks small enough for its temporaries to stay in cache.
    blocks = data.reshape(-1, fmt.block_bytes)
    flat = out.reshape(-1, fmt.block_size)
    step = _SLICE_WEIGHTS // fmt.block_size
    for start in range(0, blocks.shape[0], step):
        flat[start : start + step] = unpack(fmt, blocks[start : start + step]).to_float()


_SLICE_WEIGHTS = 1 << 16


def _widen(fmt: QuantFormat, data: Bytes) -> NDArray[np.float32]:
    if fmt.name == "bf16":
        bits = data.view("<u2").astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)
    return data.view("<f4" if fmt.name == "f32" else "<f2").astype(np.float32)


def _nibbles(packed: Bytes, run: int) -> Bytes:
    """Split each run of `run` bytes into its low nibbles, then its high ones."""
    runs = packed.reshape(*packed.shape[:-1], -1, 1, run)
    split = np.concatenate([runs & np.uint8(15), runs >> np.uint8(4)], axis=-2)
    return split.reshape(*packed.shape[:-1], -1)


def _planes(packed: Bytes, bits: int) -> Bytes:
    """Split runs of 32 bytes into 8 / bits planes, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    runs = packed.reshape(*packed.shape[:-1], -1, 1, 32)
    planes = (runs >> shifts) & np.uint8((1 << bits) - 1)
    return planes.reshape(*packed.shape[:-1], -1)


def _rows(values: NDArray[Any]) -> NDArray[Any]:
    """Join the blocks of a row: [.., blocks, n] -> [.., blocks * n]."""
    return values.reshape(*values.shape[:-2], -1)


def _unpack_q4_0(b: Blocks) -> BlockIntegers:
    return BlockIntegers(32, 8, _rows(_nibbles(b["qs"], 16)), b["d"])


def _unpack_q4_1(b: Blocks) -> BlockIntegers:
    return BlockIntegers(32, 0, _rows(_nibbles(b["qs"], 16)), b["d"], m=b["m"])


def _five_bits(b: Blocks) -> Bytes:
    high = np.unpackbits(b["qh"], axis=-1, bitorder="little")
    high <<= np.uint8(4)
    high |= _nibbles(b["qs"], 16)
    return _rows(high)


def _unpack_q5_0(b: Blocks) -> BlockIntegers:
    return BlockIntegers(32, 16, _five_bits(b), b["d"])


def _unpack_q5_1(b: Blocks) -> BlockIntegers:
    return BlockIntegers(32, 0, _five_bits(b), b["d"], m=b["m"])


def _unpack_q8_0(b: Blocks) -> BlockIntegers:
    return BlockIntegers(32, 0, _rows(np.ascontiguousarray(b["qs"]).view(np.int8)), b["d"])


def _unpack_iq4_nl(b: Blocks) -> BlockIntegers:
    return BlockIntegers(32, 0, IQ4_NL_LEVELS[_rows(_nibbles(b["qs"], 16))], b["d"])


def _unpack_q2_k(b: Blocks) -> BlockIntegers:
    sc, mn = b["scales"] & np.uint8(15), b["scales"] >> np.uint8(4)
    q = _rows(_planes(b["qs"], 2))
    return BlockIntegers(16, 0, q, b["d"], _rows(sc), b["dmin"], _rows(mn))


def _unpack_q3_k(b: Blocks) -> BlockIntegers:
    # Scales: 16 of 6 bits, biased by 32. Bytes 0-7 hold the low nibbles (low half of the byte
    # for scales 0-7, high half for 8-15); bytes 8-11 the high pairs, scale i in byte 8 + i % 4.
    low, high = b["scales"][..., :8], b["scales"][..., 8:, None]
    pairs = (high >> np.array([0, 2, 4, 6], dtype=np.uint8)) & np.uint8(3)
    pairs = pairs.swapaxes(-1, -2).reshape(*low.shape[:-1], 16)
    sc = (_nibbles(low, 8) | (pairs << np.uint8(4))).astype(np.int8) - np.int8(32)
    q = _planes(b["qs"], 2) | (_planes(b["hmask"], 1) << np.uint8(2))
    return BlockIntegers(16, 4, _rows(q), b["d"], _rows(sc))


def _six_bit_pairs(scales: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minima of 6 bits from 12 bytes.

    Bytes 0-3 hold scales 0-3 and bytes 4-7 minima 0-3 in their low 6 bits; bytes 8-11 the low
    nibbles of scales (low) and minima (high) 4-7, whose high pairs top bytes 0-3 and 4-7.
    """
    a, b, c = scales[..., 0:4], scales[..., 4:8], scales[..., 8:12]
    six, two = np.uint8(63), np.uint8(0x30)
    sc = np.concatenate([a & six, (c & np.uint8(15)) | ((a >> np.uint8(2)) & two)], axis=-1)
    mn = np.concatenate([b & six, (c >> np.uint8(4)) | ((b >> np.uint8(2)) & two)], axis=-1)
    return _rows(sc), _rows(mn)


def _unpack_q4_k(b: Blocks) -> BlockIntegers:
    sc, mn = _six_bit_pairs(b["scales"])
    return BlockIntegers(32, 0, _rows(_nibbles(b["qs"], 32)), b["d"], sc, b["dmin"], mn)


def _unpack_q5_k(b: Blocks) -> BlockIntegers:
    sc, mn = _six_bit_pairs(b["scales"])
    q = _nibbles(b["qs"], 32) | (_planes(b["qh"], 1) << np.uint8(4))
    return BlockIntegers(32, 0, _rows(q), b["d"], sc, b["dmin"], mn)


def _unpack_q6_k(b: Blocks) -> BlockIntegers:
    q = _nibbles(b["ql"], 64) | (_planes(b["qh"], 2) << np.uint8(4))
    sc = np.ascontiguousarray(b["scales"]).view(np.int8)
    return BlockIntegers(16, 32, _rows(q), b["d"], _rows(sc))


_UNPACK: dict[str, Callable[[Blocks], BlockIntegers]] = {
    "q4_0": _unpack_q4_0, "q4_1": _unpack_q4_1, "q5_0": _unpack_q5_0, "q5_1": _unpack_q5_1,
    "q8_0": _unpack_q8_0, "iq4_nl": _unpack_iq4_nl, "q2_k": _unpack_q2_k, "q3_k": _unpack_q3_k,
    "q4_k": _unpack_q4_k, "q5_k": _unpack_q5_k, "q6_k": _unpack_q6_k,
}  # fmt: skip
