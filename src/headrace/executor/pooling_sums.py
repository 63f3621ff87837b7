"""PoolingSums: hidden states of a prompt to one vector.

Owns the sums of requests that want a mean and have not reached their last token. In: the states of
wanted rows, position by position. Out: the vector, with the last position. Sums run in float64 in
the order of positions, so that chunks and neighbours change no bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.core.step import NewRequest
from headrace.ops.protocol import Array


class PoolingSums:
    """Sums by request id."""

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}

    def add(
        self, new: NewRequest, state: Array, num_tokens: int, is_last: bool
    ) -> tuple[float, ...] | None:
        """Take the state after `num_tokens` tokens; the vector when it is the last one.

        Shapes: state [C]. Mutates: self.
        """
        if new.pooling == "last":
            return tuple(state.tolist()) if is_last else None
        # A preempted request begins again with its first token.
        total = state.astype(np.float64) if num_tokens == 1 else self._sums[new.request_id] + state
        self._sums[new.request_id] = total
        return tuple((total / num_tokens).tolist()) if is_last else None

    def forget(self, request_id: str) -> None:
        """Drop what is kept of a request."""
        self._sums.pop(request_id, None)


def is_finite(vector: Sequence[float]) -> bool:
    """Whether every number is one."""
    return all(map(math.isfinite, vector))
