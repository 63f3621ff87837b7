"""rms_norm and add, one program per row. In and out: tensors [T, C] of the ops' own dtype."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from headrace.ops.cuda.float8 import Float8Rows, row_warps, store_row


@triton.jit
def rms_norm_kernel(
    h, add, weight, out, codes, scales, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    HAS_ADD: tl.constexpr, WRITES_SUM: tl.constexpr, IS_ROUNDED: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    row = index * WIDTH
    column = tl.arange(0, BLOCK)
    is_inside = column < WIDTH
    x = tl.load(h + row + column, mask=is_inside, other=0.0).to(tl.float32)
    if HAS_ADD:
        x += tl.load(add + row + column, mask=is_inside, other=0.0).to(tl.float32)
        # What later layers read is what is normed: the sum in its own dtype.
        x = x.to(h.dtype.element_ty).to(tl.float32)
        if WRITES_SUM:
            tl.store(h + row + column, x.to(h.dtype.element_ty), mask=is_inside)
    mean_square = tl.sum(x * x, axis=0) / WIDTH
    scaled = x / tl.sqrt(mean_square + eps)
    scaled *= tl.load(weight + column, mask=is_inside, other=0.0)
    result = scaled.to(out.dtype.element_ty)
    tl.store(out + row + column, result, mask=is_inside)
    if IS_ROUNDED:  # what is rounded is what is written, as in two kernels
        values = tl.where(is_inside, result.to(tl.float32), 0.0)
        store_row(values, codes, scales, index, column, is_inside, WIDTH, BLOCK)


def rms_norm(
    h: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    add: torch.Tensor | None = None,
    writes_sum: bool = True,
    rounded: Float8Rows | None = None,
) -> torch.Tensor:
    """The norm of h, or of h + add. Shapes: h, add [T, C]; weight [C] float32 -> [T, C].

    Mutates: h becomes h + add, unless `writes_sum` is off; `rounded`, where given, becomes the
    result in float8.
    """
    out = torch.empty_like(h)
    num_rows, width = h.shape
    if not num_rows:
        return out
    block = triton.next_power_of_2(width)
    rms_norm_kernel[(num_rows,)](
        h, h if add is None else add, weight, out, out if rounded is None else rounded.codes,
        out if rounded is None else rounded.scales, eps, WIDTH=width, BLOCK=block,
        HAS_ADD=add is not None, WRITES_SUM=writes_sum, IS_ROUNDED=rounded is not None,
        num_warps=row_warps(block),
    )  # fmt: skip
    return out
