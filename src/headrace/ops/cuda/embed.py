"""Rows of an embedding table as activations; quantized tables stay as they are packed."""

from __future__ import annotations

import torch

from headrace.ops.cuda import gemv
from headrace.ops.cuda.packing import Float8Matrix, IntegerMatrix, Matrix


def embed(token_ids: torch.Tensor, table: Matrix, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Shapes: token_ids [T], table [V, C] -> [T, C]."""
    if isinstance(table, IntegerMatrix):
        return gemv.dequantize(table, dtype, token_ids, scale)
    assert not isinstance(table, Float8Matrix)  # noqa: S101 - tables are packed as floats
    rows = table.data.index_select(0, token_ids)
    return rows if scale == 1.0 else (rows.float() * scale).to(dtype)
