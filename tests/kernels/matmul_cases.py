"""Weights, shapes and tolerances of the matmul family: one table for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.quant.format import FORMATS
from headrace.quant.gguf_blocks import view_blocks
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize

INTEGER_FORMATS = (
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "q3_k", "q4_k", "q5_k", "q6_k",
)  # fmt: skip
"""Formats with an integer kernel."""

FLOAT_FORMATS = ("f32", "f16", "bf16", "q2_k")
"""Formats that are multiplied as floats; q2_k is dequantized when packed."""

# Rows around every switch of kernel: vector passes of 4 and 8, tiles of 16, blocks of 512 rows.
ROW_COUNTS = (1, 2, 3, 5, 8, 9, 11, 13, 15, 16, 17, 33, 70)

# (out, in): panels of 16 columns, blocks of 4 and 8 groups, blocks of 32 or 64 groups.
SHAPES_32 = ((16, 32), (1, 96), (50, 160), (129, 2112))
SHAPES_256 = ((16, 256), (50, 512), (129, 2304))

ACTIVATION_RMS_ERROR = 0.009
"""Activations in int8 per group of 32 against exact ones, Gaussian rows: 0.5 to 0.7 % rms."""
FLOAT_WEIGHT_ERROR = 2e-6
"""Float weights: float32 roundings of sums of up to 1300 terms."""


def shapes_of(format_name: str) -> tuple[tuple[int, int], ...]:
    return SHAPES_256 if FORMATS[format_name].block_size == 256 else SHAPES_32


def gaussian_weight(
    rng: np.random.Generator, format_name: str, shape: tuple[int, int]
) -> QuantTensor:
    """A weight as models have them, rounded to the format."""
    return quantize(rng.standard_normal(shape).astype(np.float32) / 8, format_name)


def random_blocks(
    rng: np.random.Generator, format_name: str, shape: tuple[int, int]
) -> QuantTensor:
    """Any integers at all, extremes included, under ordinary scales (some zero or negative)."""
    fmt = FORMATS[format_name]
    data = rng.integers(0, 256, (shape[0], fmt.row_bytes(shape[1])), dtype=np.uint8)
    blocks = view_blocks(fmt, data)
    for name in ("d", "dmin", "m"):
        if name in (blocks.dtype.names or ()):
            scales = rng.standard_normal(blocks.shape).astype(np.float16)
            scales[rng.random(blocks.shape) < 0.05] = 0
            blocks[name] = scales
    return QuantTensor(fmt, shape, data)


def activations(rng: np.random.Generator, num_rows: int, depth: int, kind: str = "normal") -> Any:
    """Rows [num_rows, depth] float32: normal, outliers, zero groups, or of any magnitude."""
    x: NDArray[np.float32] = rng.standard_normal((num_rows, depth)).astype(np.float32)
    if kind == "outliers":
        x[:, :: max(1, depth // 5)] *= 1000
    if kind == "zero-groups":
        x.reshape(num_rows, -1, 32)[:, ::2] = 0
    if kind == "magnitudes":
        x *= np.float32(10.0) ** rng.integers(-37, 30, x.shape).astype(np.float32)
    return x


ACTIVATION_KINDS = ("normal", "outliers", "zero-groups", "magnitudes")
