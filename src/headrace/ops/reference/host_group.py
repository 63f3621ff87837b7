"""HostGroup: ranks that exchange numpy arrays through rank 0, over a socket in a private folder.

The definition of what ranks tell each other, for the device `reference`: to see that a division
gives the numbers of one process, without a GPU. Not made for speed.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import EngineDied
from headrace.ops.rank_group import RankGroup
from headrace.ops.reference.reference_ops import ReferenceOps

JOIN_S = 60.0

Array = NDArray[Any]


class HostGroup:
    """See RankGroup. Rank 0 has a connection to each other rank, in their order."""

    def __init__(self, rank: int, num_ranks: int) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self._listener: socket.socket | None = None
        self._links: list[socket.socket] = []

    def open(self) -> str:
        """See RankGroup: the path of a socket that only this user can reach."""
        path = Path(tempfile.mkdtemp(prefix="headrace-ranks-")) / "rank-0"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(JOIN_S)
        self._listener.bind(str(path))
        self._listener.listen(self.num_ranks)
        return str(path)

    def join(self, address: str) -> None:
        """See RankGroup."""
        try:
            if self._listener is None:
                link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._links = [link]
                link.connect(address)
                link.sendall(bytes([self.rank]))
            else:
                self._accept(self._listener)
        except OSError as error:
            raise EngineDied(f"rank {self.rank} could not reach the others: {error}") from error
        finally:
            if self._listener is not None:
                self._listener.close()
                with contextlib.suppress(OSError):
                    Path(address).unlink()
                    Path(address).parent.rmdir()

    def all_reduce(self, x: Array) -> Array:
        """See RankGroup. Added in the order of ranks."""
        total: Array = np.add.reduce(self.all_gather(x), axis=0)
        return total

    def all_gather(self, x: Array) -> Array:
        """See RankGroup."""
        all_parts = np.empty((self.num_ranks, *x.shape), x.dtype)
        all_parts[self.rank] = x
        if self.rank == 0:
            for link, part in zip(self._links, all_parts[1:], strict=True):
                _receive_into(link, part)
        else:
            _send(self._links[0], all_parts[self.rank])
            _receive_into(self._links[0], all_parts)
        for link in self._links if self.rank == 0 else ():
            _send(link, all_parts)
        return all_parts

    def close(self) -> None:
        """See RankGroup."""
        for link in self._links:
            link.close()

    def _accept(self, listener: socket.socket) -> None:
        found: dict[int, socket.socket] = {}
        while len(found) < self.num_ranks - 1:
            link, _ = listener.accept()
            link.settimeout(None)
            found[link.recv(1)[0]] = link
        self._links = [found[rank] for rank in sorted(found)]


def _send(link: socket.socket, x: Array) -> None:
    if x.size:
        link.sendall(x.data.cast("B"))


def _receive_into(link: socket.socket, x: Array) -> None:
    """Fill x, which is contiguous. Raises: EngineDied when the other side is gone."""
    if not x.size:
        return
    left = x.data.cast("B")
    while left:
        num_bytes = link.recv_into(left)
        if not num_bytes:
            raise EngineDied("a rank is gone")
        left = left[num_bytes:]


def make_rank_ops(rank: int, num_ranks: int) -> tuple[ReferenceOps, RankGroup]:
    """The entry in ops/table.py."""
    group = HostGroup(rank, num_ranks)
    return ReferenceOps(np.float32, group), group
