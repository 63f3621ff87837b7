"""A real usage ledger in a folder, rows for it, and a disk that is full."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, text

from fakes.running_engine import Recorder
from headrace.economics.ledger import UsageLedger
from headrace.economics.ledger_writer import LedgerWriter
from headrace.economics.spill_file import SpillFile
from headrace.economics.usage_row import UsageRow, new_row_id
from headrace.store.database import Database, default_url

NOON_MS = 1_795_348_800_000  # 2026-11-22 12:00 UTC


def make_row(number: int = 0, **changes: Any) -> UsageRow:
    at_ms = NOON_MS + number
    values = {
        "row_id": new_row_id(at_ms),
        "request_id": f"req_{number}",
        "accepted_at_ms": at_ms,
        "day": time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000)),
        "tenant": "acme",
    }
    return UsageRow(**(values | changes))


def open_database(folder: Path) -> Database:
    database = Database(default_url(folder))
    database.create_file()
    return database


class Ledger:
    """A writer on a real database, and what it has counted."""

    def __init__(
        self,
        folder: Path,
        max_rows: int = 1000,
        max_spill_bytes: int = 10**6,
        database: Database | None = None,
    ) -> None:
        self.folder, self.metrics = folder, Recorder()
        self.database = database or open_database(folder)
        self.spill = SpillFile(folder / "spill", max_spill_bytes)
        self.store = UsageLedger(self.database)
        self.writer = LedgerWriter(self.store, self.spill, self.metrics, max_rows)
        self.writer.start()

    def rows(self) -> list[dict[str, Any]]:
        """What is in the table, by time of arrival; those of a millisecond in any order."""
        with self.database.reading() as connection:
            found = connection.execute(text("SELECT * FROM usage_rows ORDER BY row_id"))
            return [dict(row) for row in found.mappings()]

    def count(self, name: str) -> float:
        return self.metrics.counters.get(f"headrace:{name}_total", 0)

    @property
    def spilled_files(self) -> list[Path]:
        return sorted((self.folder / "spill").glob("usage-*.jsonl"))

    def close(self, timeout_s: float = 10.0) -> None:
        self.writer.close(timeout_s)
        self.database.close()


@contextmanager
def open_ledger(folder: Path, **limits: int) -> Iterator[Ledger]:
    ledger = Ledger(folder, **limits)
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def full_disk(database: Database) -> Iterator[None]:
    """SQLite's own refusal to grow: its error is the one of a full disk."""
    with _pragma(database, "max_page_count = 1"):
        yield


@contextmanager
def refused_writes(database: Database) -> Iterator[None]:
    """Every write fails, also one that needs no room; reads go on."""
    with _pragma(database, "query_only = 1"):
        yield


@contextmanager
def _pragma(database: Database, pragma: str) -> Iterator[None]:
    # The listener stays: taking it away while another thread connects breaks that thread's walk
    # through the listeners.
    is_on = True

    def execute(connection: Any, _: object) -> None:
        if is_on:
            connection.execute(f"PRAGMA {pragma}").fetchall()

    event.listen(database.engine, "connect", execute)
    database.close()
    try:
        yield
    finally:
        is_on = False
        database.close()


def eventually(is_so: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)  # a thread or another process does it; ask again soon
