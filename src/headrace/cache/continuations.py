"""What cached blocks hold, by what comes before them, in the order of their tokens.

In: the hash of everything before a block, its token ids, its id. Out: the block that begins like
given tokens for the longest. Of sorted contents that is a neighbour of the place where the tokens
would stand. Knows nothing of users of a block.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import takewhile
from struct import pack
from typing import NamedTuple


class PartialBlock(NamedTuple):
    """A block of which the first `num_tokens` are those that were looked for."""

    block_id: int
    num_tokens: int


class Continuations:
    """Per hash of what is before: contents of blocks, sorted."""

    def __init__(self) -> None:
        self._after: dict[bytes, list[tuple[bytes, int]]] = {}
        self._place_of: dict[int, tuple[bytes, bytes]] = {}

    def put(self, parent: bytes, token_ids: Sequence[int], block_id: int) -> None:
        """Remember what a block holds, in place of what it held before."""
        self.drop(block_id)
        content = _content(token_ids)
        insort(self._after.setdefault(parent, []), (content, block_id))
        self._place_of[block_id] = parent, content

    def drop(self, block_id: int) -> None:
        """Forget a block. One that is not here is fine."""
        if block_id not in self._place_of:
            return
        parent, content = self._place_of.pop(block_id)
        after = self._after[parent]
        del after[bisect_left(after, (content, block_id))]
        if not after:
            del self._after[parent]

    def find(self, parent: bytes, token_ids: Sequence[int]) -> PartialBlock | None:
        """Find the block behind `parent` that has the most of the tokens; None when it has none."""
        after = self._after.get(parent)
        if not after:
            return None
        wanted = _content(token_ids)
        place = bisect_left(after, (wanted, -1))
        found = (
            PartialBlock(block_id, _num_equal(content, wanted))
            for content, block_id in after[max(0, place - 1) : place + 1]
        )
        best = max(found, key=lambda part: part.num_tokens)
        return best if best.num_tokens else None

    def clear(self) -> None:
        """Forget every block."""
        self._after.clear()
        self._place_of.clear()


def _content(token_ids: Sequence[int]) -> bytes:
    """Bytes in the order of the tokens: the highest byte first."""
    return pack(f">{len(token_ids)}I", *token_ids)


def _num_equal(a: bytes, b: bytes) -> int:
    """Tokens until the first that differ."""
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return sum(1 for _ in equal) // 4
