"""Linears of few rows: each weight is read once, 16 bytes at a time, and used for every row.

A program computes BLOCK_N columns of all rows; the gated variant computes a gate and its up column
together and ends with the activation. Sums are float32, in an order that does not depend on the
rows. `dequantize` writes a matrix out for wide products.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from headrace.ops.cuda.activation import gate
from headrace.ops.cuda.float8 import widen
from headrace.ops.cuda.packing import Float8Matrix, FloatMatrix, IntegerMatrix
from headrace.ops.protocol import GATE_UP_INTERLEAVE, Activation

MAX_ROWS = 8
INTERPRETED_COLUMNS = 64 if triton.knobs.runtime.interpret else 0
"""The interpreter takes time by program, so there each has more columns; the code is the same."""


@triton.jit
def _finish(acc, bias, out, column, is_column, num_rows, out_width, ROWS: tl.constexpr):
    row = tl.arange(0, ROWS)[:, None]
    is_out = (row < num_rows) & is_column[None, :]
    tl.store(
        out + row.to(tl.int64) * out_width + column[None, :], acc.to(out.dtype.element_ty),
        mask=is_out,
    )  # fmt: skip


@triton.jit
def _float_columns(
    x, weight, scales, column, is_column, num_rows, x_width, DEPTH: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, HAS_SCALES: tl.constexpr,
):  # fmt: skip
    """x @ weight[column].T, times the columns' scales. Shapes: -> [ROWS, BLOCK_N] float32."""
    row = tl.arange(0, ROWS)[:, None]
    start = weight + column.to(tl.int64)[:, None] * DEPTH
    acc = tl.zeros([ROWS, BLOCK_N, BLOCK_K], tl.float32)
    for first in range(0, DEPTH, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)[None, :]
        w = tl.load(start + k, mask=is_column[:, None] & (k < DEPTH), other=0.0)
        a = tl.load(x + row * x_width + k, mask=(row < num_rows) & (k < DEPTH), other=0.0)
        acc += a.to(tl.float32)[:, None, :] * widen(w, tl.float32)[None, :, :]
    y = tl.sum(acc, axis=2)
    if HAS_SCALES:
        y *= tl.load(scales + column, mask=is_column, other=0.0)[None, :]
    return y


@triton.jit
def float_gemv_kernel(
    x, weight, scales, bias, out, num_rows, num_columns, x_width, out_width,
    DEPTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_SCALES: tl.constexpr, HAS_BIAS: tl.constexpr, IS_GATED: tl.constexpr,
    IS_SILU: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = column < num_columns
    source = column
    if IS_GATED:
        source = column // UNIT * (2 * UNIT) + column % UNIT
    y = _float_columns(
        x, weight, scales, source, is_column, num_rows, x_width, DEPTH, ROWS, BLOCK_N, BLOCK_K,
        HAS_SCALES,
    )  # fmt: skip
    if HAS_BIAS:
        y += tl.load(bias + source, mask=is_column, other=0.0)[None, :]
    if IS_GATED:
        up = _float_columns(
            x, weight, scales, source + UNIT, is_column, num_rows, x_width, DEPTH, ROWS, BLOCK_N,
            BLOCK_K, HAS_SCALES,
        )  # fmt: skip
        if HAS_BIAS:
            up += tl.load(bias + source + UNIT, mask=is_column, other=0.0)[None, :]
        y = gate(y, up, IS_SILU)
    _finish(y, bias, out, column, is_column, num_rows, out_width, ROWS)


@triton.jit
def load_integers(
    low, high, d, sc, dm, mn, row, run, PADDED: tl.constexpr, BITS: tl.constexpr,
    ZERO: tl.constexpr, BLOCK_SIZE: tl.constexpr, GROUP: tl.constexpr, HAS_SC: tl.constexpr,
    HAS_DM: tl.constexpr, HAS_MN: tl.constexpr,
):  # fmt: skip
    """Runs of 16 weights and those 32 above them, as floats.

    Shapes: row [N] int64, run [J] -> two of [N, J, 16]; run j begins at weight
    j // 2 * 64 + j % 2 * 16. Rows and runs must exist.
    """
    i = tl.arange(0, 16)[None, None, :]
    n = row[:, None, None]
    j = run[None, :, None]
    first = j // 2 * 64 + j % 2 * 16
    if BITS == 8:
        a = tl.load(low + n * PADDED + first + i).to(tl.float32)
        b = tl.load(low + n * PADDED + first + 32 + i).to(tl.float32)
    else:
        both = tl.load(low + n * (PADDED // 2) + j * 16 + i).to(tl.int32)
        p = both & 15
        q = both >> 4
        if BITS == 6:
            top = tl.load(high + n * (PADDED // 4) + j // 2 * 16 + i).to(tl.int32)
            top = top >> (j % 2 * 4)
            p |= (top & 3) << 4
            q |= ((top >> 2) & 3) << 4
        if BITS == 5:
            top = tl.load(high + n * (PADDED // 8) + j // 4 * 16 + i).to(tl.int32)
            top = top >> (j % 4 * 2)
            p |= (top & 1) << 4
            q |= ((top >> 1) & 1) << 4
        a = (p - ZERO).to(tl.float32)
        b = (q - ZERO).to(tl.float32)
    block = n * (PADDED // BLOCK_SIZE) + first // BLOCK_SIZE
    above = n * (PADDED // BLOCK_SIZE) + (first + 32) // BLOCK_SIZE
    group = n * (PADDED // GROUP) + first // GROUP
    group_above = n * (PADDED // GROUP) + (first + 32) // GROUP
    scale = tl.load(d + block).to(tl.float32)
    scale_above = tl.load(d + above).to(tl.float32)
    if HAS_SC:
        scale *= tl.load(sc + group).to(tl.float32)
        scale_above *= tl.load(sc + group_above).to(tl.float32)
    a = a * scale
    b = b * scale_above
    if HAS_DM:
        less = tl.load(dm + block).to(tl.float32)
        less_above = tl.load(dm + above).to(tl.float32)
        if HAS_MN:
            less *= tl.load(mn + group).to(tl.float32)
            less_above *= tl.load(mn + group_above).to(tl.float32)
        a = a - less
        b = b - less_above
    return a, b


@triton.jit
def _integer_columns(
    x, low, high, d, sc, dm, mn, column, num_rows, x_width,
    DEPTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    RUNS: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr, HAS_SC: tl.constexpr, HAS_DM: tl.constexpr, HAS_MN: tl.constexpr,
):  # fmt: skip
    """x @ weight[column].T for columns that exist. Shapes: -> [ROWS, BLOCK_N] float32."""
    row = tl.arange(0, ROWS)[:, None, None]
    i = tl.arange(0, 16)[None, None, :]
    acc = tl.zeros([ROWS, BLOCK_N, RUNS, 16], tl.float32)
    for start in range(0, PADDED // 32, RUNS):
        run = start + tl.arange(0, RUNS)
        # Runs beyond the last are read again from the last one, and multiplied with zeros.
        safe = tl.minimum(run, PADDED // 32 - 1)
        a, b = load_integers(
            low, high, d, sc, dm, mn, column.to(tl.int64), safe, PADDED, BITS, ZERO, BLOCK_SIZE,
            GROUP, HAS_SC, HAS_DM, HAS_MN,
        )  # fmt: skip
        k = (run // 2 * 64 + run % 2 * 16)[None, :, None] + i
        is_row = (row < num_rows) & (run < PADDED // 32)[None, :, None]
        xa = tl.load(x + row * x_width + k, mask=is_row & (k < DEPTH), other=0.0)
        xb = tl.load(x + row * x_width + k + 32, mask=is_row & (k + 32 < DEPTH), other=0.0)
        acc += xa.to(tl.float32)[:, None, :, :] * a[None, :, :, :]
        acc += xb.to(tl.float32)[:, None, :, :] * b[None, :, :, :]
    return tl.sum(tl.sum(acc, axis=3), axis=2)


@triton.jit
def integer_gemv_kernel(
    x, low, high, d, sc, dm, mn, bias, out, num_rows, num_columns, x_width, out_width,
    DEPTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    RUNS: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr, HAS_SC: tl.constexpr, HAS_DM: tl.constexpr, HAS_MN: tl.constexpr,
    HAS_BIAS: tl.constexpr, IS_GATED: tl.constexpr, IS_SILU: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = column < num_columns
    source = tl.minimum(column, num_columns - 1)
    if IS_GATED:
        source = source // UNIT * (2 * UNIT) + source % UNIT
    y = _integer_columns(
        x, low, high, d, sc, dm, mn, source, num_rows, x_width, DEPTH, PADDED, ROWS, BLOCK_N,
        RUNS, BITS, ZERO, BLOCK_SIZE, GROUP, HAS_SC, HAS_DM, HAS_MN,
    )  # fmt: skip
    if HAS_BIAS:
        y += tl.load(bias + source)[None, :]
    if IS_GATED:
        up = _integer_columns(
            x, low, high, d, sc, dm, mn, source + UNIT, num_rows, x_width, DEPTH, PADDED, ROWS,
            BLOCK_N, RUNS, BITS, ZERO, BLOCK_SIZE, GROUP, HAS_SC, HAS_DM, HAS_MN,
        )  # fmt: skip
        if HAS_BIAS:
            up += tl.load(bias + source + UNIT)[None, :]
        y = gate(y, up, IS_SILU)
    _finish(y, bias, out, column, is_column, num_rows, out_width, ROWS)


@triton.jit(do_not_specialize=["num_rows"])
def dequantize_kernel(
    low, high, d, sc, dm, mn, rows, out, scale, num_rows, out_width,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK_N: tl.constexpr, RUNS: tl.constexpr,
    BITS: tl.constexpr, ZERO: tl.constexpr, BLOCK_SIZE: tl.constexpr, GROUP: tl.constexpr,
    HAS_SC: tl.constexpr, HAS_DM: tl.constexpr, HAS_MN: tl.constexpr, HAS_ROWS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_place = place < num_rows
    row = tl.minimum(place, num_rows - 1)
    if HAS_ROWS:
        row = tl.load(rows + row).to(tl.int64)
    run = tl.program_id(1) * RUNS + tl.arange(0, RUNS)
    is_run = run < PADDED // 32
    a, b = load_integers(
        low, high, d, sc, dm, mn, row, tl.minimum(run, PADDED // 32 - 1), PADDED, BITS, ZERO,
        BLOCK_SIZE, GROUP, HAS_SC, HAS_DM, HAS_MN,
    )  # fmt: skip
    k = (run // 2 * 64 + run % 2 * 16)[None, :, None] + tl.arange(0, 16)[None, None, :]
    where = out + place[:, None, None] * out_width + k
    is_out = is_place[:, None, None] & is_run[None, :, None]
    tl.store(where, (a * scale).to(out.dtype.element_ty), mask=is_out & (k < WIDTH))
    tl.store(where + 32, (b * scale).to(out.dtype.element_ty), mask=is_out & (k + 32 < WIDTH))


def float_gemv(
    x: torch.Tensor,
    matrix: FloatMatrix | Float8Matrix,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    activation: Activation | None = None,
) -> None:
    """x @ matrix.T + bias, or its gated activation. Mutates: out."""
    rows = triton.next_power_of_2(x.shape[0])
    num_columns = out.shape[1]
    block_n, block_k = (8, 512) if rows == 1 else (8, 256) if rows <= 4 else (4, 256)
    block_n = INTERPRETED_COLUMNS or block_n
    is_float8 = isinstance(matrix, Float8Matrix)
    weight, scales = (
        (matrix.codes, matrix.scales) if isinstance(matrix, Float8Matrix) else (matrix.data, x)
    )
    float_gemv_kernel[(triton.cdiv(num_columns, block_n),)](
        x, weight, scales, x if bias is None else bias, out, x.shape[0], num_columns,
        x.stride(0), out.stride(0),
        DEPTH=matrix.shape[1], ROWS=rows, BLOCK_N=block_n, BLOCK_K=block_k, HAS_SCALES=is_float8,
        HAS_BIAS=bias is not None, IS_GATED=activation is not None,
        IS_SILU=activation == "silu", UNIT=GATE_UP_INTERLEAVE, num_warps=4,
    )  # fmt: skip


def integer_gemv(
    x: torch.Tensor,
    matrix: IntegerMatrix,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    activation: Activation | None = None,
) -> None:
    """x @ matrix.T + bias, or its gated activation. Mutates: out."""
    rows = triton.next_power_of_2(x.shape[0])
    num_columns = out.shape[1]
    block_n, runs = (8, 16) if rows == 1 else (4, 16) if rows <= 4 else (4, 8)
    block_n = INTERPRETED_COLUMNS or block_n
    integer_gemv_kernel[(triton.cdiv(num_columns, block_n),)](
        x, *tensors(matrix), x if bias is None else bias, out, x.shape[0], num_columns,
        x.stride(0), out.stride(0), DEPTH=matrix.width, ROWS=rows, BLOCK_N=block_n, RUNS=runs,
        HAS_BIAS=bias is not None, IS_GATED=activation is not None, IS_SILU=activation == "silu",
        UNIT=GATE_UP_INTERLEAVE, num_warps=4, **constants(matrix),
    )  # fmt: skip


def dequantize(
    matrix: IntegerMatrix, dtype: torch.dtype, rows: torch.Tensor | None = None, scale: float = 1.0
) -> torch.Tensor:
    """The matrix, or some of its rows, as floats times scale. Shapes: -> [out or n, in]."""
    num_rows = matrix.shape[0] if rows is None else rows.shape[0]
    out = torch.empty((num_rows, matrix.width), dtype=dtype, device=matrix.low.device)
    if not num_rows:
        return out
    padded = matrix.d.shape[1] * matrix.block_size
    dequantize_kernel[(triton.cdiv(num_rows, 4), triton.cdiv(padded, 512))](
        *tensors(matrix), matrix.low if rows is None else rows, out, scale, num_rows,
        matrix.width, WIDTH=matrix.width, BLOCK_N=4, RUNS=16, HAS_ROWS=rows is not None,
        num_warps=4, enable_fp_fusion=False, **constants(matrix),
    )  # fmt: skip
    return out


def tensors(matrix: IntegerMatrix) -> tuple[torch.Tensor, ...]:
    """The kernels' pointers; what is absent is not read."""
    parts = (matrix.low, matrix.high, matrix.d, matrix.sc, matrix.dm, matrix.mn)
    return tuple(matrix.low if part is None else part for part in parts)


def constants(matrix: IntegerMatrix) -> dict[str, int]:
    """How `load_integers` finds its way in them."""
    return {
        "PADDED": matrix.d.shape[1] * matrix.block_size,
        "BITS": matrix.bits,
        "ZERO": matrix.zero,
        "BLOCK_SIZE": matrix.block_size,
        "GROUP": matrix.group_size,
        "HAS_SC": matrix.sc is not None,
        "HAS_DM": matrix.dm is not None,
        "HAS_MN": matrix.mn is not None,
    }
