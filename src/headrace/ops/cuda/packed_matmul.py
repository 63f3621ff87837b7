"""Linears of some rows, more than a GEMV takes: tensor cores straight from packed weights.

A program computes BLOCK_N columns of all rows. Weights are widened in registers and stand on the
left of the product, where tensor cores take them from; rows of x stand on the right. With few
columns the depth is split over programs too, and float32 parts are added in their order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from headrace.ops.cuda import gemv
from headrace.ops.cuda.float8 import widen
from headrace.ops.cuda.gemv import load_integers
from headrace.ops.cuda.packing import Float8Matrix, IntegerMatrix

MAX_ROWS = 64
"""From here on writing the weights out once and the library's product are less work."""
WANTED_PROGRAMS = 256
"""About two for each multiprocessor of the largest GPUs."""
MAX_SPLITS = 8


@triton.jit
def _finish(acc, bias, out, column, is_column, num_rows, num_columns, out_width,
            ROWS: tl.constexpr, HAS_BIAS: tl.constexpr, SPLITS: tl.constexpr):  # fmt: skip
    """Write [BLOCK_N, ROWS]: the result, or this program's part of it."""
    row = tl.arange(0, ROWS)[None, :]
    is_out = is_column[:, None] & (row < num_rows)
    if HAS_BIAS and SPLITS == 1:
        acc += tl.load(bias + column, mask=is_column, other=0.0)[:, None]
    place = row.to(tl.int64)
    if SPLITS > 1:
        place += tl.program_id(1).to(tl.int64) * num_rows
    where = out + place * out_width + column[:, None]
    tl.store(where, acc.to(out.dtype.element_ty), mask=is_out)


# Steps of mixed sizes come all the time: a multiple of 16 rows must not be a kernel of its own.
@triton.jit(do_not_specialize=["num_rows"])
def integer_matmul_kernel(
    x, low, high, d, sc, dm, mn, bias, out, num_rows, num_columns, x_width, out_width,
    DEPTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    RUNS: tl.constexpr, BITS: tl.constexpr, ZERO: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    GROUP: tl.constexpr, HAS_SC: tl.constexpr, HAS_DM: tl.constexpr, HAS_MN: tl.constexpr,
    HAS_BIAS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = column < num_columns
    safe_column = tl.minimum(column, num_columns - 1).to(tl.int64)
    row = tl.arange(0, ROWS)[None, :]
    i = tl.arange(0, RUNS * 16)
    acc = tl.zeros([BLOCK_N, ROWS], tl.float32)
    # Each split has whole steps of RUNS; the last ones may have none.
    length: tl.constexpr = (PADDED // 32 + RUNS * SPLITS - 1) // (RUNS * SPLITS) * RUNS
    begin = tl.program_id(1) * length
    for start in range(begin, tl.minimum(begin + length, PADDED // 32), RUNS):
        run = start + tl.arange(0, RUNS)
        # Runs beyond the last are read again from the last one, and multiplied with zeros.
        safe_run = tl.minimum(run, PADDED // 32 - 1)
        a, b = load_integers(
            low, high, d, sc, dm, mn, safe_column, safe_run, PADDED, BITS, ZERO, BLOCK_SIZE,
            GROUP, HAS_SC, HAS_DM, HAS_MN,
        )  # fmt: skip
        j = start + i // 16
        k = (j // 2 * 64 + j % 2 * 16 + i % 16)[:, None]
        is_x = (row < num_rows) & (j < PADDED // 32)[:, None]
        xa = tl.load(x + row * x_width + k, mask=is_x & (k < DEPTH), other=0.0)
        xb = tl.load(x + row * x_width + k + 32, mask=is_x & (k + 32 < DEPTH), other=0.0)
        a = tl.reshape(a.to(x.dtype.element_ty), [BLOCK_N, RUNS * 16])
        b = tl.reshape(b.to(x.dtype.element_ty), [BLOCK_N, RUNS * 16])
        acc = tl.dot(a, xa, acc, input_precision="ieee")
        acc = tl.dot(b, xb, acc, input_precision="ieee")
    _finish(acc, bias, out, column, is_column, num_rows, num_columns, out_width, ROWS, HAS_BIAS,
            SPLITS)  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"])
def float8_matmul_kernel(
    x, codes, scales, bias, out, num_rows, num_columns, x_width, out_width,
    DEPTH: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_BIAS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = column < num_columns
    row = tl.arange(0, ROWS)[None, :]
    acc = tl.zeros([BLOCK_N, ROWS], tl.float32)
    length: tl.constexpr = (DEPTH + BLOCK_K * SPLITS - 1) // (BLOCK_K * SPLITS) * BLOCK_K
    begin = tl.program_id(1) * length
    for start in range(begin, tl.minimum(begin + length, DEPTH), BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        place = codes + column.to(tl.int64)[:, None] * DEPTH + k[None, :]
        w = tl.load(place, mask=is_column[:, None] & (k < DEPTH)[None, :], other=0.0)
        is_x = (row < num_rows) & (k < DEPTH)[:, None]
        a = tl.load(x + row * x_width + k[:, None], mask=is_x, other=0.0)
        acc = tl.dot(widen(w, x.dtype.element_ty), a, acc, input_precision="ieee")
    acc *= tl.load(scales + column, mask=is_column, other=0.0)[:, None]
    _finish(acc, bias, out, column, is_column, num_rows, num_columns, out_width, ROWS, HAS_BIAS,
            SPLITS)  # fmt: skip


def matmul(
    x: torch.Tensor,
    matrix: IntegerMatrix | Float8Matrix,
    bias: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """x @ matrix.T + bias for up to MAX_ROWS rows. Mutates: out."""
    num_rows, num_columns = out.shape
    rows = max(triton.next_power_of_2(num_rows), 16)
    depth = matrix.shape[1]
    block_n = gemv.INTERPRETED_COLUMNS or 64
    splits = num_splits(triton.cdiv(num_columns, block_n), depth)
    target = out
    if splits > 1:
        target = x.new_empty((splits * num_rows, num_columns), dtype=torch.float32)
    common = (x if bias is None else bias, target, num_rows, num_columns, x.stride(0),
              target.stride(0))  # fmt: skip
    settings = {"DEPTH": depth, "ROWS": rows, "BLOCK_N": block_n, "HAS_BIAS": bias is not None,
                "SPLITS": splits, "num_warps": 4, "num_stages": 3}  # fmt: skip
    grid = (triton.cdiv(num_columns, block_n), splits)
    if isinstance(matrix, Float8Matrix):
        float8_matmul_kernel[grid](x, matrix.codes, matrix.scales, *common, BLOCK_K=128, **settings)
    else:
        integer_matmul_kernel[grid](
            x, *gemv.tensors(matrix), *common, RUNS=4, **settings,
            **gemv.constants(matrix),
        )  # fmt: skip
    if splits > 1:
        total = target.view(splits, num_rows, num_columns).sum(0)
        out.copy_(total if bias is None else total + bias)


def num_splits(num_blocks: int, depth: int) -> int:
    """Parts of the depth, a power of 2: enough programs, none with less than 512 weights."""
    splits = 1
    while 2 * splits * num_blocks <= WANTED_PROGRAMS and 2 * splits * 512 <= depth:
        splits *= 2
    return min(splits, MAX_SPLITS)
