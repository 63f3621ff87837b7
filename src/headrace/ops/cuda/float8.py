"""Floats of 8 bits (e4m3) in kernels: reading them, rounding to them, rows of activations as them.

Rounding is integer arithmetic, the same on every GPU and in the interpreter. Codes are read by the
GPU's own conversion where the compiler knows the type (sm_89 and later), else bit by bit; both are
exact.
"""

from __future__ import annotations

import logging

import torch
import triton
import triton.language as tl

from headrace.core.frozen import frozen

FIRST_ARCHITECTURE = 89
"""Ada and Hopper convert and multiply e4m3."""

logger = logging.getLogger(__name__)


@frozen
class Float8Rows:
    """Activations as codes with a scale per row. Shapes: codes [T, C] uint8; scales [T, 1]."""

    codes: torch.Tensor
    scales: torch.Tensor

    @classmethod
    def like(cls, x: torch.Tensor) -> Float8Rows:
        """Room for the rows of x."""
        return cls(
            torch.empty(x.shape, dtype=torch.uint8, device=x.device),
            torch.empty((x.shape[0], 1), dtype=torch.float32, device=x.device),
        )


@frozen
class RoundedAct:
    """A norm's rows as they are, for whoever needs them so, and as float8."""

    values: torch.Tensor
    rows: Float8Rows


@triton.jit
def from_float8(x):
    """What codes stand for, in float16. A code that is no number is not recognized as one."""
    if x.dtype == tl.uint8:
        bits = x.to(tl.uint16)
        # The exponent of float16 has another bias, by 8.
        half = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
        y = half.to(tl.float16, bitcast=True) * 256.0
    else:
        y = x.to(tl.float16)
    return y


@triton.jit
def widen(x, dtype: tl.constexpr):
    """Floats, int8 or codes of float8 as `dtype`."""
    if x.dtype.primitive_bitwidth == 8 and x.dtype != tl.int8:
        x = from_float8(x)
    return x.to(dtype)


@triton.jit
def to_float8(x):
    """Codes of float32 values: to the nearest, ties to even; beyond 448 is 448. x is finite."""
    size = tl.minimum(tl.abs(x), 448.0)
    bits = size.to(tl.int32, bitcast=True)
    # Bits 20 and up are float32's exponent and the three bits that stay; biases are 127 and 7.
    rounded = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - 960
    # Adding 1.5 * 2^23 leaves no bits after the point: multiples of 2^-9, even at ties.
    small = ((size * 512.0 + 12582912.0) - 12582912.0).to(tl.int32)
    code = tl.where(size < 0.015625, small, rounded)
    sign = (x.to(tl.int32, bitcast=True) >> 24) & 0x80
    return (code | sign).to(tl.uint8)


@triton.jit
def scale_of(top):
    """The scale that takes the largest value of a row to 448, and its inverse."""
    factor = tl.where(top > 7.888609052210118e-31, 448.0 / top, 0.0)  # 2^-100
    return top / 448.0, factor


@triton.jit
def store_row(values, codes, scales, row, column, is_inside, WIDTH: tl.constexpr,
              BLOCK: tl.constexpr):  # fmt: skip
    """Write a row of float32 values, those outside it 0, as codes and a scale."""
    scale, factor = scale_of(tl.max(tl.abs(values), axis=0))
    tl.store(codes + row * WIDTH + column, to_float8(values * factor), mask=is_inside)
    # A row with a value that is no number keeps none: its scale is none either.
    is_sound = tl.sum((tl.abs(values) < float("inf")).to(tl.int32), axis=0) == BLOCK
    tl.store(scales + row, tl.where(is_sound, scale, float("nan")))


@triton.jit
def quantize_rows_kernel(x, codes, scales, x_width, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    is_inside = column < WIDTH
    values = tl.load(x + row * x_width + column, mask=is_inside, other=0.0).to(tl.float32)
    store_row(values, codes, scales, row, column, is_inside, WIDTH, BLOCK)


def quantize_rows(x: torch.Tensor) -> Float8Rows:
    """Activations rounded row by row. Shapes: [T, C], T at least 1."""
    rows, width = Float8Rows.like(x), x.shape[1]
    block = triton.next_power_of_2(width)
    quantize_rows_kernel[(x.shape[0],)](
        x, rows.codes, rows.scales, x.stride(0), WIDTH=width, BLOCK=block,
        num_warps=row_warps(block),
    )  # fmt: skip
    return rows


def row_warps(block: int) -> int:
    """Warps of a row: 16 values in a thread, in loads of 16 bytes."""
    return min(max(block // 512, 1), 16)


def has_products(device: torch.device) -> bool:
    """Whether the library multiplies with a scale for each row: for some GPUs it cannot.

    Source: github.com/pytorch/pytorch/issues/192707, of compute capability 12.0.
    """
    x = torch.zeros((64, 256), dtype=torch.bfloat16, device=device)
    rows = Float8Rows(x.byte(), x[:, :1].float().contiguous())
    try:
        product(rows, rows.codes, rows.scales[:, 0])
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        logger.info("floats of 8 bits are widened, for want of products with them: %s", reason)
        return False
    return True


def product(rows: Float8Rows, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """rows @ weight.T by the library. Shapes: [T, in], codes [out, in], scales [out] -> bf16.

    Without a GPU it is float32, of the same values.
    """
    a, b = (each.view(torch.float8_e4m3fn) for each in (rows.codes, codes))
    if a.device.type == "cpu":
        return torch.mm(a.float(), b.float().T) * rows.scales * scales[None, :]
    return torch._scaled_mm(
        a, b.T, rows.scales, scales[None, :], out_dtype=torch.bfloat16, use_fast_accum=True
    )
