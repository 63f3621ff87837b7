"""BodyRoom: how many bytes of request bodies are held at a time, of all callers together.

In: bytes as they arrive. Out: room for them until their request ends, or a refusal. Where there is
none, bodies that have been coming for long make way, so that who sends slowly holds up nobody.
Belongs to the server's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.core.clock import Clock, SystemClock
from headrace.core.config import ServerConfig
from headrace.core.errors import CapacityError

# What is decoded stays until its answer is complete: at once there is hardly more room.
RETRY_AFTER_S = 2.0
# A body that is not there after so long may lose its place to another.
SLOW_S = 2.0


class BodyRoom:
    """What is held now."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.arriving: list[BodyShare] = []
        """Bodies that are being received, the oldest first."""


class BodyShare:
    """What one request holds, until it gives it back."""

    def __init__(self, room: BodyRoom, config: ServerConfig, clock: Clock | None = None) -> None:
        self._room, self._max_bytes = room, config.most_body_bytes
        self._clock = clock or SystemClock()
        self._num_bytes = 0
        self._begin_s = 0.0
        self._limit: asyncio.Timeout | None = None
        self.has_made_way = False

    @contextmanager
    def arriving(self, limit: asyncio.Timeout) -> Iterator[None]:
        """While the body is received. `limit` ends that early when the body has to make way."""
        self._begin_s, self._limit = self._clock.monotonic_s(), limit
        self._room.arriving.append(self)
        try:
            yield
        finally:
            self._room.arriving.remove(self)

    def take(self, num_bytes: int) -> None:
        """Hold so many bytes more. Raises: CapacityError."""
        if (num_missing := self._room.num_bytes + num_bytes - self._max_bytes) > 0:
            self._make_room(num_missing)
        if self._room.num_bytes + num_bytes > self._max_bytes:
            raise CapacityError(
                "The requests that are received and answered now have bodies of "
                f"{self._room.num_bytes} bytes; all together may have {self._max_bytes} "
                "(max_total_body_bytes). Send the request again later.",
                RETRY_AFTER_S,
                is_full=False,
            )
        self._room.num_bytes += num_bytes
        self._num_bytes += num_bytes

    def _make_room(self, num_missing: int) -> None:
        """Have the oldest slow bodies make way, unless all of them together are not enough."""
        since_s = self._clock.monotonic_s() - SLOW_S
        slow = [each for each in self._room.arriving if each._begin_s <= since_s and each != self]
        if sum(other._num_bytes for other in slow) >= num_missing:
            for other in slow:
                if other._num_bytes and num_missing > 0:
                    num_missing -= other._num_bytes
                    other._make_way()

    def _make_way(self) -> None:
        self.give_back()
        # One whose time is over ends by itself.
        if self._limit is not None and not self._limit.expired():
            self.has_made_way = True
            self._limit.reschedule(asyncio.get_running_loop().time())

    def give_back(self) -> None:
        """Hold nothing any more."""
        self._room.num_bytes -= self._num_bytes
        self._num_bytes = 0
