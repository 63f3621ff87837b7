"""rms_norm and add, one program per row. In and out: tensors [T, C] of the ops' own dtype."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def rms_norm_kernel(
    h, add, weight, out, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, HAS_ADD: tl.constexpr,
    WRITES_SUM: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * WIDTH
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
    tl.store(out + row + column, scaled.to(out.dtype.element_ty), mask=is_inside)


def rms_norm(
    h: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    add: torch.Tensor | None = None,
    writes_sum: bool = True,
) -> torch.Tensor:
    """The norm of h, or of h + add. Shapes: h, add [T, C]; weight [C] float32 -> [T, C].

    Mutates: h becomes h + add, unless `writes_sum` is off.
    """
    out = torch.empty_like(h)
    num_rows, width = h.shape
    if not num_rows:
        return out
    block = triton.next_power_of_2(width)
    rms_norm_kernel[(num_rows,)](
        h, h if add is None else add, weight, out, eps,
        WIDTH=width, BLOCK=block, HAS_ADD=add is not None, WRITES_SUM=writes_sum,
        num_warps=norm_warps(block),
    )  # fmt: skip
    return out


def norm_warps(block: int) -> int:
    """Warps of a row: 16 values in a thread, in loads of 16 bytes."""
    return min(max(block // 512, 1), 16)
