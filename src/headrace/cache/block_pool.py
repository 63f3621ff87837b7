"""Owns which KV blocks are free, how often each is used, and in which order they are reclaimed.

In: block ids. Out: block ids. A block with users is never given away. A free block whose content
is still known (cached) waits in least-recently-used order and is reclaimed only when no empty
block is left. Knows nothing of tokens, hashes or arrays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class BlockPool:
    """A fixed number of blocks with reference counts.

    Every block is in exactly one place:

        used (count > 0)  --free, cached-->    evictable, oldest first  --allocate--> used
                          --free, not cached-> empty, a stack           --allocate--> used
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks is {num_blocks}; a pool needs at least 1 block.")
        self.num_blocks = num_blocks
        self._num_users = [0] * num_blocks
        self._is_cached = bytearray(num_blocks)
        # A stack: the block freed last is the one most likely still in the processor's cache.
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._evictable: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free_blocks(self) -> int:
        return len(self._empty) + len(self._evictable)

    @property
    def num_used_blocks(self) -> int:
        return self.num_blocks - self.num_free_blocks

    def allocate(self, num_blocks: int) -> list[int]:
        """Hand out blocks with one user each: empty ones first, then the least recently used.

        Mutates: the blocks lose whatever content they cached.
        Raises: RuntimeError when there are not that many; ask `num_free_blocks` first.
        """
        if num_blocks > self.num_free_blocks:
            raise RuntimeError(f"{num_blocks} blocks wanted, {self.num_free_blocks} free.")
        block_ids = []
        for _ in range(num_blocks):
            block_id = self._empty.pop() if self._empty else self._evictable.popitem(last=False)[0]
            self._num_users[block_id] = 1
            self._is_cached[block_id] = False
            block_ids.append(block_id)
        return block_ids

    def share(self, block_ids: Sequence[int]) -> None:
        """Add a user to each block; a free cached block comes back into use."""
        for block_id in block_ids:
            if self._num_users[block_id] == 0:
                del self._evictable[block_id]
            self._num_users[block_id] += 1

    def free(self, block_ids: Sequence[int]) -> None:
        """Remove a user from each block of a sequence, last block first.

        A prefix is useless without its beginning, so the end of a sequence is reclaimed earlier.
        """
        for block_id in reversed(block_ids):
            self._num_users[block_id] -= 1
            if self._num_users[block_id] > 0:
                continue
            if self._num_users[block_id] < 0:
                raise RuntimeError(f"Block {block_id} was freed more often than it was used.")
            if self._is_cached[block_id]:
                self._evictable[block_id] = None
            else:
                self._empty.append(block_id)

    def mark_cached(self, block_id: int) -> None:
        """Keep the content of a used block findable after it is freed."""
        if self._num_users[block_id] == 0:
            raise RuntimeError(f"Block {block_id} is free and cannot become cached.")
        self._is_cached[block_id] = True

    def forget_cached(self) -> None:
        """Make every cached block an empty one. Mutates: the blocks lose what they cached.

        Raises: RuntimeError while a block is used.
        """
        if self.num_used_blocks:
            raise RuntimeError(f"{self.num_used_blocks} blocks are in use.")
        self._is_cached = bytearray(self.num_blocks)
        self._empty += self._evictable
        self._evictable.clear()

    def num_free_among(self, block_ids: Sequence[int]) -> int:
        """Count blocks that nobody uses."""
        return sum(self._num_users[block_id] == 0 for block_id in block_ids)

    def is_cached(self, block_id: int) -> bool:
        return bool(self._is_cached[block_id])

    def num_users(self, block_id: int) -> int:
        return self._num_users[block_id]

    def check_integrity(self) -> None:
        """Prove that every block is in exactly one place. Expensive; tests call it after each step.

        Raises: RuntimeError naming the block.
        """
        free = [*self._empty, *self._evictable]
        if len(free) != len(set(free)):
            raise RuntimeError("A block is free twice.")
        unused = {block_id for block_id, users in enumerate(self._num_users) if users == 0}
        if unused != set(free):
            raise RuntimeError(f"Lost or doubly owned blocks: {sorted(unused ^ set(free))}.")
        for block_id in self._empty:
            if self._is_cached[block_id]:
                raise RuntimeError(f"Block {block_id} is empty and cached.")
        for block_id in self._evictable:
            if not self._is_cached[block_id]:
                raise RuntimeError(f"Block {block_id} is evictable and not cached.")
