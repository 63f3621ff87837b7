"""QuantTensor: a named-format tensor that keeps its raw blocks.

In: bytes (often a read-only view of a mapped file), format and shape. Out: rows, floats, exact
integers. Rows are never split inside, so taking or slicing rows is exact for every format.
Knows nothing of files or of how kernels lay weights out.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.frozen import frozen
from headrace.quant import float8, gguf_blocks
from headrace.quant.format import F8_E4M3, FORMATS, QuantFormat
from headrace.quant.gguf_blocks import BlockIntegers

_FLOAT_DTYPES = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2")}


@frozen(eq=False)
class QuantTensor:
    """Raw blocks with their format and numpy-order shape (rows = out first, last axis = in).

    Shapes: data [rows, row_bytes] uint8, C-contiguous, perhaps read-only; rows is the product of
    all axes but the last, 1 for a 1-D tensor.
    Raises: ValueError when data does not fit shape and format.
    """

    format: QuantFormat
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if not self.shape or any(size < 0 for size in self.shape):
            raise ValueError(f"shape {self.shape} is not that of a tensor")
        wanted = (math.prod(self.shape[:-1]), self.format.row_bytes(self.shape[-1]))
        is_raw = self.data.dtype == np.uint8 and self.data.flags.c_contiguous
        if not is_raw or self.data.shape != wanted:
            raise ValueError(
                f"data of {self.format.name} {self.shape} is contiguous uint8 {wanted}, "
                f"not {self.data.dtype} {self.data.shape}"
            )

    @classmethod
    def from_array(cls, array: NDArray[Any], format_name: str | None = None) -> QuantTensor:
        """Wrap floats as they are: float32, float16, or uint16 bits with format_name "bf16".

        Shapes: array [.., in], any rank from 1.
        Raises: ValueError for any other pair of dtype and format.
        """
        name = format_name or {"float32": "f32", "float16": "f16"}.get(array.dtype.name)
        if name is None or _FLOAT_DTYPES.get(name) != array.dtype:
            raise ValueError(
                f"{array.dtype} as {format_name or 'a float format'}: allowed are float32 (f32), "
                'float16 (f16) and uint16 bits with format_name="bf16"'
            )
        whole = np.ascontiguousarray(array)  # and a scalar becomes a vector of one
        rows = whole.reshape(math.prod(whole.shape[:-1]), whole.shape[-1])
        return cls(FORMATS[name], tuple(whole.shape), rows.view(np.uint8))

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    @property
    def num_rows(self) -> int:
        return math.prod(self.shape[:-1])

    def dequantize(self) -> NDArray[np.float32]:
        """All weights as float32, bit for bit what ggml computes.

        Shapes: `shape`.
        """
        return self._dequantize(self.data).reshape(self.shape)

    def dequantize_rows(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Some rows as float32.

        Shapes: indices [n] -> [n, in].
        """
        return self._dequantize(np.ascontiguousarray(self.data[indices]))

    def rows(self, start: int, stop: int) -> QuantTensor:
        """Rows [start, stop) of a matrix, as a view.

        Raises: ValueError if the tensor is no matrix or lacks these rows.
        """
        self._check_matrix()
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start}:{stop} of a tensor with {self.shape[0]} rows")
        return replace(self, shape=(stop - start, self.shape[1]), data=self.data[start:stop])

    def columns(self, start: int, stop: int) -> QuantTensor:
        """Columns [start, stop) of every row, a copy; exact, because blocks stay whole.

        Raises: ValueError for columns that it lacks, or that cut a block.
        """
        if not 0 <= start <= stop <= self.shape[-1]:
            raise ValueError(f"columns {start}:{stop} of a tensor with {self.shape[-1]} columns")
        scale = self.format.row_scale_bytes
        begin, end = (self.format.row_bytes(column) - scale for column in (start, stop))
        part = np.ascontiguousarray(self.data[:, begin:end])
        if scale:
            part = np.concatenate([part, self.data[:, -scale:]], axis=1)
        return replace(self, shape=(*self.shape[:-1], stop - start), data=part)

    def matrix(self, index: int) -> QuantTensor:
        """One matrix of a stack [n, out, in], as a view.

        Raises: ValueError if the tensor is no stack or lacks this matrix.
        """
        if len(self.shape) != 3 or not 0 <= index < self.shape[0]:
            raise ValueError(f"matrix {index} of a tensor of shape {self.shape}")
        size = self.shape[1]
        rows = self.data[index * size : (index + 1) * size]
        return replace(self, shape=self.shape[1:], data=rows)

    def take_rows(self, indices: NDArray[np.integer[Any]]) -> QuantTensor:
        """Copy rows of a matrix in the order given; exact, whatever the format.

        Shapes: indices [n] -> [n, in].
        Raises: ValueError if the tensor is no matrix; IndexError for a row it lacks.
        """
        self._check_matrix()
        rows = np.ascontiguousarray(self.data[indices])
        return replace(self, shape=(rows.shape[0], self.shape[1]), data=rows)

    def integers(self) -> BlockIntegers:
        """The stored integers and scales; q, sc and mn as int16.

        Shapes: see BlockIntegers, with one leading axis, rows.
        Raises: ValueError for a float format.
        """
        return gguf_blocks.integers(self)

    def _dequantize(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
        out = np.empty((rows.shape[0], self.shape[-1]), dtype=np.float32)
        if self.format is F8_E4M3:
            float8.dequantize(rows, out)
        else:
            gguf_blocks.dequantize(self.format, rows, out)
        return out

    def _check_matrix(self) -> None:
        if len(self.shape) != 2:
            raise ValueError(f"rows of a tensor of shape {self.shape}: only a matrix has rows")
