"""RequestWriter: calls on their way to the store, beside the streams and never in them.

In: StoredRequests, from any thread, at once. Out: batches, from a thread of its own, which also
removes what is too old. What waits is bounded; a call that finds no room, or that the database does
not take, is lost, counted and logged: it is a convenience, and the usage ledger has its row.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from headrace.core.errors import StoreError
from headrace.core.stored_requests import StoredRequest
from headrace.core.telemetry import REQUESTS_NOT_STORED, REQUESTS_STORED, MetricSink

logger = logging.getLogger(__name__)

MAX_WAITING = 1000
MAX_WAITING_BYTES = 64 * 1024**2
MAX_BATCH = 50
SWEEP_EVERY_S = 3600.0


class RequestTable(Protocol):
    """Where calls end up."""

    def append(self, requests: Sequence[StoredRequest]) -> None:
        """Write all or none. Raises: StoreError."""
        ...

    def sweep(self) -> int:
        """Remove what is too old. Raises: StoreError."""
        ...


class RequestWriter:
    """A RequestLog. `start` it once, `close` it when no more calls come."""

    def __init__(self, table: RequestTable, sink: MetricSink) -> None:
        self._table, self._sink = table, sink
        self._waiting: deque[StoredRequest] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._run, name="headrace-requests", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def append(self, request: StoredRequest) -> None:
        """See core.stored_requests.RequestLog."""
        with self._changed:
            has_room = (
                not self._is_closing
                and len(self._waiting) < MAX_WAITING
                and self._waiting_bytes + request.size_bytes <= MAX_WAITING_BYTES
            )
            if has_room:
                self._waiting.append(request)
                self._waiting_bytes += request.size_bytes
                self._changed.notify()
        if not has_room:
            self._lose(1, "too many wait to be written")

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what waits. Calling it twice is harmless."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        swept_at_s = -SWEEP_EVERY_S
        while True:
            if time.monotonic() - swept_at_s >= SWEEP_EVERY_S:
                swept_at_s = time.monotonic()
                self._sweep()
            batch = self._next_batch(SWEEP_EVERY_S)
            if batch:
                self._write(batch)
            elif self._is_closing:
                return

    def _next_batch(self, timeout_s: float) -> list[StoredRequest]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing, timeout_s)
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            self._waiting_bytes -= sum(request.size_bytes for request in batch)
        return batch

    def _write(self, batch: Sequence[StoredRequest]) -> None:
        try:
            self._table.append(batch)
        except StoreError as error:
            self._lose(len(batch), str(error))
        else:
            self._is_failing = False
            self._sink.add(REQUESTS_STORED, len(batch))

    def _sweep(self) -> None:
        try:
            self._table.sweep()
        except StoreError as error:
            logger.warning("Old stored requests stay for now: %s", error)

    def _lose(self, count: int, reason: str) -> None:
        self._sink.add(REQUESTS_NOT_STORED, count)
        if not self._is_failing:
            logger.error("Requests are not stored: %s", reason)
        self._is_failing = True
