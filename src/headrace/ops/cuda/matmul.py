"""Which kernel a linear takes, by its rows and the form of its weights.

Up to gemv.MAX_ROWS rows read packed weights column by column, up to packed_matmul.MAX_ROWS through
tensor cores; more go to the library as floats. Where the device multiplies floats of 8 bits, those
weights take all products beyond the GEMV's that way, with activations rounded row by row.
"""

from __future__ import annotations

import torch

from headrace.ops.cuda import activation, float8, gemv, packed_matmul
from headrace.ops.cuda.float8 import Float8Rows, RoundedAct
from headrace.ops.cuda.packing import Float8Matrix, FloatMatrix, IntegerMatrix, Linear, Matrix
from headrace.ops.protocol import Activation


def linear(
    x: torch.Tensor | RoundedAct, weight: Linear, out_dtype: torch.dtype | None = None
) -> torch.Tensor:
    """x @ weight.T + bias. Shapes: [T, in] -> [T, out]."""
    rows = None
    if isinstance(x, RoundedAct):
        x, rows = x.values, x.rows
    dtype = out_dtype or x.dtype
    is_alone = len(weight.matrices) == 1 and weight.bias is None
    if is_alone and not has_own_kernel(x, weight.matrices[0], dtype):
        return wide_product(x, weight.matrices[0], dtype, rows)
    out = torch.empty((x.shape[0], weight.num_columns), dtype=dtype, device=x.device)
    start = 0
    for matrix in weight.matrices:
        end = start + matrix.shape[0]
        bias = None if weight.bias is None else weight.bias[start:end]
        _multiply(x, matrix, bias, out[:, start:end], rows)
        start = end
    return out


def has_own_kernel(x: torch.Tensor, matrix: Matrix, dtype: torch.dtype) -> bool:
    """Whether a Triton kernel reads the weights as they are packed."""
    num_rows = x.shape[0]
    if num_rows <= gemv.MAX_ROWS:
        return num_rows > 0
    is_left_to_library = isinstance(matrix, FloatMatrix) or _is_float8_product(x, matrix, dtype)
    return num_rows <= packed_matmul.MAX_ROWS and not is_left_to_library


def _is_float8_product(x: torch.Tensor, matrix: Matrix, dtype: torch.dtype) -> bool:
    """Whether x is rounded too. Logits, which are wider than x, deserve it as it is."""
    return takes_rounded(matrix) and dtype == x.dtype and x.shape[0] > 0


def takes_rounded(matrix: Matrix) -> bool:
    """Whether wide products with this matrix are those of float8."""
    return isinstance(matrix, Float8Matrix) and matrix.has_products


def _multiply(
    x: torch.Tensor,
    matrix: Matrix,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    rows: Float8Rows | None,
) -> None:
    if not has_own_kernel(x, matrix, out.dtype):
        product = wide_product(x, matrix, out.dtype, rows)
        out.copy_(product if bias is None else product + bias)
    elif isinstance(matrix, FloatMatrix) or x.shape[0] <= gemv.MAX_ROWS:
        _few_rows(x, matrix, bias, out)
    else:
        packed_matmul.matmul(x, matrix, bias, out)


def _few_rows(
    x: torch.Tensor,
    matrix: Matrix,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    name: Activation | None = None,
) -> None:
    if isinstance(matrix, IntegerMatrix):
        gemv.integer_gemv(x, matrix, bias, out, name)
    else:
        gemv.float_gemv(x, matrix, bias, out, name)


def wide_product(
    x: torch.Tensor, matrix: Matrix, dtype: torch.dtype, rows: Float8Rows | None = None
) -> torch.Tensor:
    """x @ matrix.T by the library; packed weights become floats in scratch first.

    `rows`: x in float8, where its norm has rounded it.
    """
    if isinstance(matrix, Float8Matrix):
        if _is_float8_product(x, matrix, dtype):
            rows = rows or float8.quantize_rows(x)
            return float8.product(rows, matrix.codes, matrix.scales).to(dtype)
        # Codes are exact in the activations' dtype; the scales follow.
        codes = matrix.codes.view(torch.float8_e4m3fn).to(x.dtype)
        return (_floats(x, codes, torch.float32) * matrix.scales).to(dtype)
    weight = gemv.dequantize(matrix, x.dtype) if isinstance(matrix, IntegerMatrix) else matrix.data
    return _floats(x, weight, dtype)


def _floats(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if dtype == x.dtype or x.device.type == "cpu":
        return torch.mm(x, weight.T).to(dtype)
    return torch.mm(x, weight.T, out_dtype=dtype)


def gated_linear(x: torch.Tensor | RoundedAct, weight: Linear, name: Activation) -> torch.Tensor:
    """activation(gate) * up of an interleaved weight. Shapes: [T, in] -> [T, F].

    Raises: ValueError where the columns do not pair.
    """
    matrix = weight.matrices[0]
    if isinstance(x, RoundedAct) or not 0 < x.shape[0] <= gemv.MAX_ROWS:
        return activation.gated(linear(x, weight), name)
    out = torch.empty((x.shape[0], matrix.shape[0] // 2), dtype=x.dtype, device=x.device)
    _few_rows(x, matrix, weight.bias, out, name)
    return out
