"""Slots: how much of batches may be in progress, answers or bytes, given out in order of asking.

In: how many each line needs. Out: permission. Batches that ask in turns get turns, whatever the
length of each. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress


class Slots:
    """A semaphore with weights. First come, first served, so that a large one is not passed by."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._num_free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def num_taken(self) -> int:
        return self.capacity - self._num_free

    @property
    def num_waiting(self) -> int:
        """Who waits for a turn."""
        return len(self._waiting)

    async def take(self, num_wanted: int) -> int:
        """Wait for slots, at most all there are; returns how many were taken, to give back."""
        num_wanted = min(num_wanted, self.capacity)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (num_wanted, turn)
        self._waiting.append(entry)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(num_wanted)
            else:
                with suppress(ValueError):
                    self._waiting.remove(entry)
                self._hand_out()
            raise
        return num_wanted

    def give(self, num_slots: int) -> None:
        """Give slots back."""
        self._num_free += num_slots
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiting:
            num_slots, turn = self._waiting[0]
            if not turn.done():
                if num_slots > self._num_free:
                    return
                self._num_free -= num_slots
                turn.set_result(None)
            self._waiting.popleft()
