"""ObservedOps: a device whose linears tell what they multiply.

In: any Ops whose Act is a float array when no reader is named: the CPU's and the reference. Out:
the same results, and per packed matrix the sum of squares of each input column. A model runs on it
as on any other Ops and does not know. Keeps sums only, no activations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.ops.protocol import Activation, Array, Ops, PackedLinear


class ObservedOps:
    """Ops around Ops; what it does not observe it passes on."""

    def __init__(self, inner: Ops) -> None:
        self._inner = inner
        self._sums: dict[int, NDArray[np.float64]] = {}
        self._num_rows: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def mean_squares(self, weight: PackedLinear) -> NDArray[np.float32] | None:
        """Mean over the rows seen of each column's square, None if none was. Shapes: -> [in]."""
        sums = self._sums.get(id(weight))
        if sums is None:
            return None
        return (sums / self._num_rows[id(weight)]).astype(np.float32)

    def linear(self, x: Array, weight: PackedLinear) -> Array:
        self.observe(x, weight)
        return self._inner.linear(x, weight)

    def gated_linear(
        self,
        x: Array,
        weight: PackedLinear,
        activation: Activation,
        reader: PackedLinear | None = None,
    ) -> Array:
        """As the protocol's; the result stays float, so that its reader can be observed."""
        self.observe(x, weight)
        return self._inner.gated_linear(x, weight, activation)

    def observe(self, x: Array, weight: PackedLinear) -> None:
        """Count rows that a matrix multiplies. Shapes: x [T, in]."""
        squares = np.einsum("ij,ij->j", x, x, dtype=np.float64)
        key = id(weight)
        if key in self._sums:
            self._sums[key] += squares
            self._num_rows[key] += len(x)
        else:
            self._sums[key], self._num_rows[key] = squares, len(x)
