"""Writes integers and scales into GGUF blocks: the exact inverse of `gguf_blocks.unpack`.

In: `BlockIntegers`. Out: raw blocks, uint8. pack(unpack(x)) == x for every byte of every format.
Chooses no numbers: quantize.py does.
Source: ggml, src/ggml-quants.c (bit orders).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.quant.format import QuantFormat
from headrace.quant.gguf_blocks import BLOCK_DTYPES, IQ4_NL_LEVELS, BlockIntegers, Blocks, Bytes


def pack(fmt: QuantFormat, integers: BlockIntegers) -> Bytes:
    """Put integers and scales into blocks.

    Shapes: as BlockIntegers, with one leading axis -> [rows, row_bytes] uint8.
    """
    blocks = np.zeros(integers.d.shape, dtype=BLOCK_DTYPES[fmt.name])
    blocks["d"] = integers.d
    if integers.dmin is not None:
        blocks["dmin"] = integers.dmin
    if integers.m is not None:
        blocks["m"] = integers.m
    q = integers.q.reshape(*integers.d.shape, fmt.block_size)
    _PACK[fmt.name](blocks, q, _of_blocks(integers.sc, blocks), _of_blocks(integers.mn, blocks))
    return blocks.view(np.uint8).reshape(len(blocks), -1)


_Ints = NDArray[np.integer[Any]]


def _of_blocks(values: _Ints | None, blocks: Blocks) -> Bytes:
    """Scales or minima of each block as bytes; signed ones keep their two's complement."""
    if values is None:
        return np.empty((*blocks.shape, 0), dtype=np.uint8)
    return values.reshape(*blocks.shape, -1).astype(np.int16).astype(np.uint8)


def _join_nibbles(values: _Ints, run: int) -> Bytes:
    """Runs of `run` low nibbles and `run` high ones -> bytes."""
    pairs = values.astype(np.uint8).reshape(*values.shape[:-1], -1, 2, run)
    joined = (pairs[..., 0, :] & np.uint8(15)) | (pairs[..., 1, :] << np.uint8(4))
    return joined.reshape(*values.shape[:-1], -1)


def _join_planes(values: _Ints, bits: int) -> Bytes:
    """8 / bits planes of 32 values each -> runs of 32 bytes, lowest bits first."""
    planes = values.astype(np.uint8).reshape(*values.shape[:-1], -1, 8 // bits, 32)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    joined: Bytes = np.bitwise_or.reduce((planes & np.uint8((1 << bits) - 1)) << shifts, axis=-2)
    return joined.reshape(*values.shape[:-1], -1)


def _pack_nibbles(blocks: Blocks, q: _Ints, sc: Bytes, mn: Bytes) -> None:
    blocks["qs"] = _join_nibbles(q, 16)


def _pack_five_bits(blocks: Blocks, q: _Ints, sc: Bytes, mn: Bytes) -> None:
    blocks["qs"] = _join_nibbles(q, 16)
    blocks["qh"] = np.packbits((q >> 4).astype(np.uint8), axis=-1, bitorder="little")


def _pack_q8_0(blocks: Blocks, q: _Ints, sc: Bytes, mn: Bytes) -> None:
    blocks["qs"] = q.astype(np.int8).view(np.uint8)


def _pack_iq4_nl(blocks: Blocks, q: _Ints, sc: Bytes, mn: Bytes) -> None:
    blocks["qs"] = _join_nibbles(np.searchsorted(IQ4_NL_LEVELS, q), 16)


def _pack_q2_k(blocks: Blocks, q: _Ints, sc: Bytes, mn: Bytes) -> None:
    blocks["scales"] = sc | (mn << np.uint8(4))
    blocks["qs"] = _join_planes(q, 2)


def _pack_q3_k(blocks: Blocks, q: _Ints, sc: Bytes, mn: Bytes) -> None:
    biased = sc + np.uint8(32)
    pairs = (biased >> np.uint8(4)).reshape(*sc.shape[:-1], 4, 4)
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    blocks["scales"][..., :8] = _join_nibbles(biased, 8)
    blocks["scales"][..., 8:] = np.bitwise_or.reduce(pairs << shifts, axis=-2)
    blocks["qs"] = _join_planes(q, 2)
    blocks["hmask"] = _join_planes(q >> 2, 1)


def _join_six_bit_pairs(sc: Bytes, mn: Bytes) -> Bytes:
    low, four = np.uint8(15), np.uint8(4)
    top_of_sc, top_of_mn = sc[..., 4:] >> four, mn[..., 4:] >> four
    return np.concatenate(
        [
            sc[..., :4] | (top_of_sc << np.uint8(6)),
            mn[..., :4] | (top_of_mn << np.uint8(6)),
            (sc[..., 4:] & low) | (mn[..., 4:] << four),
        ],
        axis=-1,
    )


def _pack_q4_k(blocks: Blocks, q: _Ints, sc: Bytes, mn: Bytes) -> None:
    blocks["scales"] = _join_six_bit_pairs(sc, mn)
    blocks["qs"] = _join_nibbles(q, 32)


def _pack_q5_k(blocks: Blocks, q: _Ints, sc: Bytes, mn: Bytes) -> None:
    _pack_q4_k(blocks, q, sc, mn)
    blocks["qh"] = _join_planes(q >> 4, 1)


def _pack_q6_k(blocks: Blocks, q: _Ints, sc: Bytes, mn: Bytes) -> None:
    blocks["ql"] = _join_nibbles(q, 64)
    blocks["qh"] = _join_planes(q >> 4, 2)
    blocks["scales"] = sc


_PACK: dict[str, Callable[[Blocks, _Ints, Bytes, Bytes], None]] = {
    "q4_0": _pack_nibbles, "q4_1": _pack_nibbles, "q5_0": _pack_five_bits,
    "q5_1": _pack_five_bits, "q8_0": _pack_q8_0, "iq4_nl": _pack_iq4_nl, "q2_k": _pack_q2_k,
    "q3_k": _pack_q3_k, "q4_k": _pack_q4_k, "q5_k": _pack_q5_k, "q6_k": _pack_q6_k,
}  # fmt: skip
