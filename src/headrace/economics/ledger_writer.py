"""LedgerWriter: usage rows on their way to the database, beside the requests and never in them.

In: rows, from any thread, at once. Out: batches, each one commit, from a thread of its own. While
the database cannot be written rows wait in memory, then in a spill file, both bounded; what finds
no room is counted and logged. The next start writes what waits in files.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from headrace.core.errors import StoreError
from headrace.core.telemetry import (
    LEDGER_FAILURES,
    LEDGER_ROWS,
    LEDGER_ROWS_LOST,
    LEDGER_ROWS_WAITING,
    MetricSink,
)
from headrace.economics.spill_file import SpillFile
from headrace.economics.usage_row import UsageRow

logger = logging.getLogger(__name__)

# Rows that come within it share a commit, which costs a sync of the disk.
LINGER_S = 0.1
MAX_BATCH_ROWS = 500
_FIRST_RETRY_S, _LAST_RETRY_S = 0.25, 5.0


class RowStore(Protocol):
    """Where rows end up."""

    def append(self, rows: Sequence[UsageRow]) -> None:
        """Write all or none; writing a row twice adds one. Raises: StoreError."""
        ...


def _tell_nobody(_rows: Sequence[UsageRow]) -> None:
    pass


class LedgerWriter:
    """A Ledger. `start` it once, `close` it when no more rows come.

    `written` is told of rows that the store has, from the writer's thread.
    """

    def __init__(
        self,
        store: RowStore,
        spill: SpillFile,
        sink: MetricSink,
        max_waiting_rows: int,
        written: Callable[[Sequence[UsageRow]], None] = _tell_nobody,
    ) -> None:
        self._store, self._spill, self._sink, self._written = store, spill, sink, written
        self._max_rows = max_waiting_rows
        self._rows: deque[UsageRow] = deque()
        self._lock = threading.Lock()
        self._is_over = False
        self._num_lost = 0
        self._retry_s = 0.0
        # Files may wait from an earlier start.
        self._may_have_files = True
        self._wake, self._closing = threading.Event(), threading.Event()
        self._deadline_s = 0.0
        self._thread = threading.Thread(target=self._run, name="headrace-ledger", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Rows in memory."""
        return len(self._rows)

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._retry_s > 0

    @property
    def has_room(self) -> bool:
        """Whether the next row would not be lost."""
        return len(self._rows) < self._max_rows and not self._is_over

    def recover(self) -> None:
        """Write what waits in files of earlier processes. Call it before `start`."""
        self._write_waiting()

    def start(self) -> None:
        """Start the thread."""
        self._wake.set()
        self._thread.start()

    def append(self, row: UsageRow) -> None:
        """Take a row. Costs no more than an append to a list."""
        with self._lock:
            has_room = len(self._rows) < self._max_rows and not self._is_over
            if has_room:
                self._rows.append(row)
        if not has_room:
            self._lose(1)
        self._wake.set()

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what waits, or put it into the file. Calling it twice is harmless."""
        self._deadline_s = time.monotonic() + timeout_s
        self._closing.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            self._closing.wait(LINGER_S)
            self._write_waiting()
            if self.is_failing:
                self._make_room()
                self._closing.wait(self._retry_s)
                self._wake.set()
        self._finish()

    def _finish(self) -> None:
        """The last rows: the database for as long as there is time, then the file."""
        self._write_waiting()
        while self.is_failing and time.monotonic() + self._retry_s < self._deadline_s:
            time.sleep(self._retry_s)
            self._write_waiting()
        with self._lock:
            self._is_over = True
        if self._rows:
            num_spilled = self._spill_oldest(len(self._rows))
            where = self._spill.shown
            logger.warning("%d usage rows wait in %s for the next start.", num_spilled, where)
        if self._rows:
            self._lose(len(self._rows))
        self._spill.close()

    def _write_waiting(self) -> None:
        try:
            while self._rows:
                batch = self._oldest(MAX_BATCH_ROWS)
                self._write(batch)
                self._forget(len(batch))
            if self._may_have_files:
                self._write_files()
        except StoreError as error:
            self._note_failure(error)
        except Exception as error:
            # Whatever it is, this thread must live: rows come as long as requests do.
            logger.exception("The usage ledger failed.")
            self._note_failure(error)
        else:
            if self.is_failing:
                logger.warning("The usage ledger is written again.")
            self._retry_s = 0.0
        self._sink.set(LEDGER_ROWS_WAITING, len(self._rows))

    def _write(self, batch: Sequence[UsageRow]) -> None:
        self._store.append(batch)
        self._written(batch)
        self._sink.add(LEDGER_ROWS, len(batch))

    def _write_files(self) -> None:
        for path, chunks in self._spill.waiting():
            for chunk in chunks:
                self._write(chunk)
            self._spill.remove(path)
        self._may_have_files = False

    def _note_failure(self, error: Exception) -> None:
        if not self.is_failing:
            logger.error("Usage rows wait, they cannot be written: %s", error)
        self._retry_s = min(max(2 * self._retry_s, _FIRST_RETRY_S), _LAST_RETRY_S)
        self._sink.add(LEDGER_FAILURES)

    def _make_room(self) -> None:
        """Move the older half out of memory before it is full."""
        if len(self._rows) > self._max_rows // 2:
            self._spill_oldest(len(self._rows) - self._max_rows // 4)

    def _spill_oldest(self, num_rows: int) -> int:
        """Mutates: the rows in memory. Returns how many are in the file now."""
        num_spilled = self._spill.add(self._oldest(num_rows))
        self._forget(num_spilled)
        self._may_have_files = self._may_have_files or num_spilled > 0
        return num_spilled

    def _oldest(self, num_rows: int) -> list[UsageRow]:
        with self._lock:
            return list(itertools.islice(self._rows, num_rows))

    def _forget(self, num_rows: int) -> None:
        """Mutates: the rows in memory, from the oldest."""
        with self._lock:
            for _ in range(num_rows):
                self._rows.popleft()

    def _lose(self, num_rows: int) -> None:
        self._num_lost += num_rows
        self._sink.add(LEDGER_ROWS_LOST, num_rows)
        # Told at 1, 2, 4, 8, ...: every one would fill the log too.
        if self._num_lost.bit_length() != (self._num_lost - num_rows).bit_length():
            logger.error(
                "%d usage rows are lost so far: the ledger is closed, or the database cannot be "
                "written and there is no more room to wait in (store.max_waiting_rows, "
                "store.max_spill_bytes).",
                self._num_lost,
            )
