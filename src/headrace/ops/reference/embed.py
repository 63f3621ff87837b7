"""embed, in numpy: rows of an embedding table as floats."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from headrace.ops.step_inputs import Int32
from headrace.quant.quant_tensor import QuantTensor


def embed(
    token_ids: Int32, table: QuantTensor, scale: float, dtype: DTypeLike
) -> NDArray[np.floating]:
    """Rows of the table times scale. Shapes: token_ids [T], table [V, C] -> [T, C].

    Raises: IndexError for a token id outside the table.
    """
    num_rows = table.shape[0]
    bad = token_ids[(token_ids < 0) | (token_ids >= num_rows)]
    if bad.size:
        raise IndexError(f"token id {bad[0]} is outside the embedding table of {num_rows} rows.")
    rows = table.dequantize_rows(token_ids).astype(dtype)
    rows *= np.asarray(scale, dtype=dtype)
    return rows
