"""Weights on the device: floats as they are, or integers with the scales of their blocks.

In: QuantTensors. Out: matrices whose bytes the kernels read 16 at a time, near the size in the
file, every integer and scale exact. Columns are padded with zero scales to whole units of 64.

A unit of 64 weights is 32 bytes of low nibbles: byte b holds weight b and, above it, weight b + 32.
A plane beside it holds bits 4 and 5: for pair p = (half-unit, byte) of formats with 6 bits, two
bits of either weight, two half-units to a byte; with 5 bits one bit each, four to a byte.
8-bit integers lie in their order. Floats of 8 bits are kept as the file has them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.core.frozen import frozen
from headrace.ops.protocol import GATE_UP_INTERLEAVE
from headrace.quant import gguf_blocks
from headrace.quant.float8 import split_rows
from headrace.quant.format import F8_E4M3
from headrace.quant.gguf_blocks import BlockIntegers
from headrace.quant.quant_tensor import QuantTensor

UNIT = 64
BITS = {
    "q4_0": 4, "q4_1": 4, "q5_0": 5, "q5_1": 5, "q8_0": 8, "iq4_nl": 8, "q2_k": 4, "q3_k": 4,
    "q4_k": 4, "q5_k": 5, "q6_k": 6,
}  # fmt: skip
"""Bits that a weight's integer takes on the device."""

Bytes = NDArray[np.uint8]


@frozen
class FloatMatrix:
    """Shapes: data [out, in]."""

    data: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[0], self.data.shape[1]

    @property
    def num_bytes(self) -> int:
        return self.data.numel() * self.data.element_size()


@frozen
class IntegerMatrix:
    """w = (d * sc) * (q - zero) - (dm * mn), where sc and mn are 1 if absent, dm 0.

    Shapes, with the padded width W: low [out, W/2] uint8, or [out, W] int8 for 8 bits; high
    [out, W/4 or W/8] or None; d, dm [out, W/block_size] float16; sc, mn [out, W/group_size] int8.
    """

    width: int
    bits: int
    zero: int
    block_size: int
    group_size: int
    low: torch.Tensor
    high: torch.Tensor | None
    d: torch.Tensor
    sc: torch.Tensor | None
    dm: torch.Tensor | None
    mn: torch.Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.low.shape[0], self.width

    @property
    def num_bytes(self) -> int:
        parts = (self.low, self.high, self.d, self.sc, self.dm, self.mn)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)


@frozen
class Float8Matrix:
    """w = codes * scales.

    Shapes: codes [out, in], float8 where the device reads it, else uint8; scales [out] float32.
    `has_products`: rows of activations are rounded to float8 too, and multiplied as such.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    has_products: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    @property
    def num_bytes(self) -> int:
        return self.codes.numel() + 4 * self.scales.numel()


Matrix = FloatMatrix | IntegerMatrix | Float8Matrix


@frozen
class Linear:
    """Matrices that read the same input, one below the other, and a float32 bias or None."""

    matrices: tuple[Matrix, ...]
    bias: torch.Tensor | None

    @property
    def num_columns(self) -> int:
        return sum(matrix.shape[0] for matrix in self.matrices)


def pack_linear(
    parts: Sequence[QuantTensor],
    biases: Sequence[QuantTensor | None] | None,
    interleave: bool,
    dtype: torch.dtype,
    device: torch.device,
    has_float8: bool = False,
) -> Linear:
    """Fuse parts along `out`; neighbours of one format become one matrix.

    `has_float8`: the device multiplies floats of 8 bits.

    Raises: ValueError when parts do not fit together.
    """
    depths = {part.shape[-1] for part in parts}
    if len(depths) != 1:
        raise ValueError(f"fused parts read inputs of different widths: {sorted(depths)}")
    if interleave and len({part.format.name for part in parts}) > 1:
        parts = [QuantTensor.from_array(part.dequantize()) for part in parts]
    runs: list[list[QuantTensor]] = []
    for part in parts:
        if runs and runs[-1][0].format.name == part.format.name:
            runs[-1].append(part)
        else:
            runs.append([part])
    order = _interleaved(parts[0].shape[0]) if interleave else None
    matrices = [pack_matrix(_join(run, order), dtype, device, has_float8) for run in runs]
    return Linear(tuple(matrices), _fuse_biases(parts, biases, order, device))


def _interleaved(num_rows: int) -> NDArray[np.int64]:
    """Rows of [gate; up] in the order of alternating units."""
    gate = np.arange(num_rows).reshape(-1, 1, GATE_UP_INTERLEAVE)
    return np.concatenate([gate, gate + num_rows], axis=1).reshape(-1)


def _join(run: Sequence[QuantTensor], order: NDArray[np.int64] | None) -> QuantTensor:
    joined = run[0]
    if len(run) > 1:
        shape = (sum(part.shape[0] for part in run), run[0].shape[1])
        joined = QuantTensor(run[0].format, shape, np.concatenate([part.data for part in run]))
    return joined if order is None else joined.take_rows(order)


def _fuse_biases(
    parts: Sequence[QuantTensor],
    biases: Sequence[QuantTensor | None] | None,
    order: NDArray[np.int64] | None,
    device: torch.device,
) -> torch.Tensor | None:
    if biases is None or all(bias is None for bias in biases):
        return None
    rows = [
        np.zeros(part.shape[0], np.float32) if bias is None else bias.dequantize().reshape(-1)
        for part, bias in zip(parts, biases, strict=True)
    ]
    fused = np.concatenate(rows)
    return torch.from_numpy(fused if order is None else fused[order]).to(device)


def pack_matrix(
    tensor: QuantTensor, dtype: torch.dtype, device: torch.device, has_float8: bool = False
) -> Matrix:
    """A weight or an embedding table [out, in] on the device."""
    if tensor.format is F8_E4M3:
        return _pack_float8(tensor, device, has_float8)
    if not tensor.format.is_quantized:
        return FloatMatrix(torch.from_numpy(tensor.dequantize()).to(device, dtype))
    bits = BITS[tensor.format.name]
    unit = 2 * UNIT if bits == 5 else UNIT
    padded = -(-tensor.shape[1] // unit) * unit
    raw = gguf_blocks.unpack(tensor.format, tensor.data)
    low, high = _planes(_pad(raw.q, padded), bits)
    block, group = tensor.format.block_size, raw.group_size
    dm, mn = _minima(raw)

    def send(values: NDArray[np.generic] | None, size: int) -> torch.Tensor | None:
        if values is None:
            return None
        return torch.from_numpy(_pad(np.asarray(values), padded // size)).to(device)

    d = send(raw.d, block)
    assert d is not None  # noqa: S101 - every format has it
    return IntegerMatrix(
        width=tensor.shape[1], bits=bits, zero=raw.zero, block_size=block, group_size=group,
        low=torch.from_numpy(low).to(device),
        high=None if high is None else torch.from_numpy(high).to(device),
        d=d, sc=send(_as_int8(raw.sc), group), dm=send(dm, block), mn=send(_as_int8(mn), group),
    )  # fmt: skip


def _pack_float8(tensor: QuantTensor, device: torch.device, has_float8: bool) -> Float8Matrix:
    codes, scales = split_rows(tensor.data)
    sent = torch.from_numpy(np.ascontiguousarray(codes)).to(device)
    return float8_matrix(sent, torch.from_numpy(scales).to(device), has_float8)


def float8_matrix(codes: torch.Tensor, scales: torch.Tensor, has_float8: bool) -> Float8Matrix:
    """A matrix of codes on their device. Shapes: codes [out, in] uint8; scales [out] float32."""
    # The library multiplies whole tiles of 16.
    has_products = has_float8 and all(size % 16 == 0 for size in codes.shape)
    if has_float8 and codes.device.type != "cpu":
        codes = codes.view(torch.float8_e4m3fn)
    return Float8Matrix(codes, scales, has_products)


def packed_bytes(tensor: QuantTensor, dtype: torch.dtype) -> int:
    """What `pack_matrix` takes, up to padding."""
    num_weights = tensor.num_rows * tensor.shape[-1]
    fmt = tensor.format
    if fmt is F8_E4M3:
        return tensor.nbytes
    if not fmt.is_quantized:
        return num_weights * dtype.itemsize
    raw = gguf_blocks.unpack(fmt, tensor.data[:1])
    size = num_weights * BITS[fmt.name] // 8
    for per_block in (raw.d, raw.dmin, raw.m):
        size += 0 if per_block is None else 2 * num_weights // fmt.block_size
    for per_group in (raw.sc, raw.mn):
        size += 0 if per_group is None else num_weights // raw.group_size
    return size


def _minima(raw: BlockIntegers) -> tuple[NDArray[np.float16] | None, NDArray[np.generic] | None]:
    """What is taken off per block, and its factor per group."""
    if raw.m is not None:
        return -raw.m, None
    return raw.dmin, raw.mn


def _as_int8(values: NDArray[np.generic] | None) -> NDArray[np.int8] | None:
    return None if values is None else values.astype(np.int8)


def _pad(values: NDArray[np.generic], width: int) -> NDArray[np.generic]:
    missing = width - values.shape[1]
    padded = np.pad(values, ((0, 0), (0, missing))) if missing else values
    return np.ascontiguousarray(padded)


def _planes(q: NDArray[np.generic], bits: int) -> tuple[NDArray[np.generic], Bytes | None]:
    """The bytes that kernels read. Shapes: q [out, W] -> low, high; see the module."""
    if bits == 8:
        return q.astype(np.int8), None
    rows = len(q)
    halves = q.astype(np.uint8).reshape(rows, -1, 2, 2, 16)  # unit, upper half, half-unit, byte
    first, second = halves[:, :, 0], halves[:, :, 1]  # [out, units, 2, 16]
    low = ((first & 15) | (second << 4)).reshape(rows, -1)
    if bits == 4:
        return low, None
    width = bits - 4
    pairs = ((first >> 4) | ((second >> 4) << width)).reshape(rows, -1, 4 // width, 16)
    shifts = (2 * width * np.arange(4 // width, dtype=np.uint8))[:, None]
    high: Bytes = np.bitwise_or.reduce(pairs << shifts, axis=2)
    return low, high.reshape(rows, -1)
