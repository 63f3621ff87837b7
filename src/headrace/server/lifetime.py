"""Lifetime: what the server is doing right now, and how it ends.

Owns the set of running inference requests and whether new ones are taken. In: requests as they
begin and end, the stop signal. Out: load, readiness, the end of the drain. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from headrace.core.errors import ServerStopping

DRAIN_RETRY_AFTER_S = 5.0


class Lifetime:
    """Counts running requests; after `drain` it takes no more, after `close` it stops them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = asyncio.Event()
        self.is_draining = False
        self.is_closing = False

    @property
    def num_running(self) -> int:
        return len(self._tasks)

    @contextmanager
    def track(self, task: asyncio.Task[None]) -> Iterator[None]:
        """Count a request while the block runs."""
        self._tasks.add(task)
        self._idle.clear()
        try:
            yield
        finally:
            self._tasks.discard(task)
            if not self._tasks:
                self._idle.set()

    def check_open(self) -> None:
        """Raises: ServerStopping once the server drains."""
        if self.is_draining:
            raise stopping_error()

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests, wait for the running ones, then stop those that are left."""
        self.is_draining = True
        self.draining.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            self.close()

    def close(self) -> None:
        """Stop what runs: its clients get an error."""
        self.is_draining = self.is_closing = True
        self.draining.set()
        for task in list(self._tasks):
            task.cancel()


def stopping_error() -> ServerStopping:
    """Say that the server is going away."""
    return ServerStopping(
        "The server is shutting down. Send the request again later.",
        DRAIN_RETRY_AFTER_S,
        is_full=False,
    )
