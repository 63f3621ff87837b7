"""RankGroup: the processes that a model is divided over, as one of them reaches the others.

One process per rank, 0 first. Implemented by reference/host_group.py and cuda/torch_group.py. Knows
nothing of models; what ranks are told to compute comes another way.
"""

from __future__ import annotations

from typing import Protocol

from headrace.ops.protocol import Array


class RankGroup(Protocol):
    """All ranks make the same calls in the same order, with arrays of equal shapes."""

    rank: int
    num_ranks: int

    def open(self) -> str:
        """On rank 0, before anybody joins: where the others find it, on this machine only."""
        ...

    def join(self, address: str) -> None:
        """Wait until all ranks are there. `address` is what rank 0 got of `open`.

        Raises: EngineDied when one does not come in time.
        """
        ...

    def all_reduce(self, x: Array) -> Array:
        """The sum over ranks, the same bits on all. Mutates: x, which it may return."""
        ...

    def all_gather(self, x: Array) -> Array:
        """Shapes: [S, W] -> [ranks, S, W]."""
        ...

    def close(self) -> None:
        """Let go of what a process can let go of. Calling it twice is harmless."""
        ...
