"""Which kernel a linear takes: few rows read packed weights, many go through cuBLAS as floats."""

from __future__ import annotations

import torch

from headrace.ops.cuda import activation, gemv
from headrace.ops.cuda.packing import FloatMatrix, IntegerMatrix, Linear, Matrix
from headrace.ops.protocol import Activation


def linear(x: torch.Tensor, weight: Linear, out_dtype: torch.dtype | None = None) -> torch.Tensor:
    """x @ weight.T + bias. Shapes: [T, in] -> [T, out]."""
    dtype = out_dtype or x.dtype
    if x.shape[0] > gemv.MAX_ROWS and len(weight.matrices) == 1 and weight.bias is None:
        return wide_product(x, weight.matrices[0], dtype)
    out = torch.empty((x.shape[0], weight.num_columns), dtype=dtype, device=x.device)
    start = 0
    for matrix in weight.matrices:
        end = start + matrix.shape[0]
        bias = None if weight.bias is None else weight.bias[start:end]
        _multiply(x, matrix, bias, out[:, start:end])
        start = end
    return out


def _multiply(
    x: torch.Tensor, matrix: Matrix, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    if not 0 < x.shape[0] <= gemv.MAX_ROWS:
        product = wide_product(x, matrix, out.dtype)
        out.copy_(product if bias is None else product + bias)
    elif isinstance(matrix, FloatMatrix):
        gemv.float_gemv(x, matrix, bias, out)
    else:
        gemv.integer_gemv(x, matrix, bias, out)


def wide_product(x: torch.Tensor, matrix: Matrix, dtype: torch.dtype) -> torch.Tensor:
    """x @ matrix.T by the library; quantized weights become floats in scratch first."""
    weight = gemv.dequantize(matrix, x.dtype) if isinstance(matrix, IntegerMatrix) else matrix.data
    if dtype == x.dtype or x.device.type == "cpu":
        return torch.mm(x, weight.T).to(dtype)
    return torch.mm(x, weight.T, out_dtype=dtype)


def gated_linear(x: torch.Tensor, weight: Linear, name: Activation) -> torch.Tensor:
    """activation(gate) * up of an interleaved weight. Shapes: [T, in] -> [T, F].

    Raises: ValueError where the columns do not pair.
    """
    matrix = weight.matrices[0]
    if not 0 < x.shape[0] <= gemv.MAX_ROWS:
        return activation.gated(linear(x, weight), name)
    out = torch.empty((x.shape[0], matrix.shape[0] // 2), dtype=x.dtype, device=x.device)
    if isinstance(matrix, FloatMatrix):
        gemv.float_gemv(x, matrix, weight.bias, out, name)
    else:
        gemv.integer_gemv(x, matrix, weight.bias, out, name)
    return out
