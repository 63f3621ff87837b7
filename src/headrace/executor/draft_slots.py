"""DraftSlots: which tokens' keys and values a draft model's cache holds.

The draft model's cache has a block for each of the target's, under the same id, and the scheduler
gives both away together: a request has one block table, and a prefix that is found is found for
both. The draft model computes later than the target, or not at all, so what it has filled is kept
here. In: scheduled rows. Out: numbers of tokens. A mistake would make a guess worse, no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.core.step import ScheduledRequest


@dataclass(slots=True)
class DraftTable:
    """One request's blocks. `num_computed`: of its chosen tokens, by the draft model; `num_target`:
    by the target, when the step is over."""

    block_ids: Sequence[int]
    num_computed: int
    num_target: int = 0

    def goes_on_in(self, row: ScheduledRequest) -> bool:
        """Whether a row is the next one. A request that was stopped may come again at the same
        place, in blocks of another one."""
        known = tuple(self.block_ids)
        is_next = self.num_target == row.num_computed_tokens
        return is_next and tuple(row.block_ids[: len(known)]) == known


class DraftSlots:
    """One draft model's."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._is_filled = bytearray(num_blocks)
        self._tables: dict[str, DraftTable] = {}

    def __len__(self) -> int:
        return len(self._tables)

    def follow(self, row: ScheduledRequest) -> bool:
        """Take in where a request stands in the step that begins; whether it begins (again).

        Mutates: self.
        """
        table = self._tables.get(row.request_id)
        is_start = table is None or not table.goes_on_in(row)
        if table is None or is_start:
            table = self._start(row)
        for block_id in row.block_ids[len(table.block_ids) :]:
            self._is_filled[block_id] = False
        table.block_ids = row.block_ids
        table.num_target = row.num_computed_tokens + len(row.token_ids) - row.num_draft_tokens
        return is_start

    def settle(self, request_id: str, num_accepted: int) -> None:
        """The step is over, and of its drafts so many were chosen. Mutates: self."""
        self._tables[request_id].num_target += num_accepted

    def num_computed(self, request_id: str) -> int:
        """Leading tokens of a request that need not be computed again."""
        return self._tables[request_id].num_computed

    def num_slots(self, request_id: str) -> int:
        """Tokens for which a request has room."""
        return len(self._tables[request_id].block_ids) * self.block_size

    def block_ids(self, request_id: str) -> Sequence[int]:
        """A request's block table."""
        return self._tables[request_id].block_ids

    def fill(self, request_id: str, num_computed: int) -> None:
        """The draft model has computed so many of a request's chosen tokens. Mutates: self."""
        table = self._tables[request_id]
        first, end = table.num_computed // self.block_size, num_computed // self.block_size
        for block_id in table.block_ids[first:end]:
            self._is_filled[block_id] = True
        table.num_computed = num_computed

    def forget(self, request_id: str) -> None:
        """A request has ended; what its blocks hold stays. Mutates: self."""
        self._tables.pop(request_id, None)

    def _start(self, row: ScheduledRequest) -> DraftTable:
        """A request that begins, or begins again: its first blocks are those found in the cache."""
        num_found = row.num_computed_tokens // self.block_size
        found = row.block_ids[:num_found]
        num_filled = next(
            (index for index, block_id in enumerate(found) if not self._is_filled[block_id]),
            len(found),
        )
        table = DraftTable(found, num_filled * self.block_size)
        self._tables[row.request_id] = table
        return table
