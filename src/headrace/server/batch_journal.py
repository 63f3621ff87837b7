"""What is finished of a batch: entries of its journal, and the one task that writes them.

In: outcomes, as they come. Out: entries on the disk, several with one sync, then their usage
rows in the ledger. What was used without a result is an entry too: the batch's usage is what its
rows say. A batch that goes on after a crash hands rows in again; the ledger takes each once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headrace.core.batches import Journal
from headrace.core.errors import StoreError
from headrace.core.usage import Usage
from headrace.economics.usage_row import Ledger, UsageRow
from headrace.server.batch_call import Outcome

_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 10.0
_log = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True):
    """A line of the journal. Not `is_finished`: its line has a row of usage, and no result."""

    number: int
    is_error: bool
    row: dict[str, Any]
    output: msgspec.Raw
    is_finished: bool = True


@dataclass(slots=True)
class Progress:
    """Which lines are finished, and what all of them used, also those that were cut off."""

    done: set[int] = field(default_factory=set)
    num_failed: int = 0
    usage: Usage = field(default_factory=Usage)

    @property
    def num_completed(self) -> int:
        return len(self.done) - self.num_failed

    def add(self, number: int, is_error: bool, row: UsageRow) -> None:
        """Count a line."""
        self.done.add(number)
        self.num_failed += is_error
        self.spend(row)

    def spend(self, row: UsageRow) -> None:
        """Count what was used."""
        self.usage += Usage(
            row.input_tokens or 0,
            row.cached_input_tokens or 0,
            row.output_tokens or 0,
            row.reasoning_tokens or 0,
            row.rejected_draft_tokens or 0,
        )


def read_entries(journal: Journal) -> Iterator[Entry]:
    """Every entry; each finished line once."""
    decoder, seen = msgspec.json.Decoder(Entry), set[int]()
    for data in journal.read():
        entry = decoder.decode(data)
        if not entry.is_finished:
            yield entry
        elif entry.number not in seen:
            seen.add(entry.number)
            yield entry


def read_progress(journal: Journal) -> tuple[Progress, list[UsageRow]]:
    """What an earlier start has finished, with its usage rows."""
    progress, rows = Progress(), []
    for entry in read_entries(journal):
        row = UsageRow(**entry.row)
        if entry.is_finished:
            progress.add(entry.number, entry.is_error, row)
        else:
            progress.spend(row)
        rows.append(row)
    return progress, rows


class JournalWriter:
    """Writes outcomes in groups. `put` returns when the outcome is on the disk."""

    def __init__(
        self, journal: Journal, progress: Progress, ledger: Callable[[], Ledger | None]
    ) -> None:
        """Mutates: progress."""
        self._journal, self._progress, self._ledger = journal, progress, ledger
        self._waiting: list[tuple[Outcome, asyncio.Future[None] | None]] = []
        self._news, self._is_closing = asyncio.Event(), False
        self._task = asyncio.create_task(self._run())

    async def put(self, outcome: Outcome) -> None:
        """Write an outcome; it is written too when nobody waits for that any more."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((outcome, written))
        self._news.set()
        await written

    def add(self, outcome: Outcome) -> None:
        """Write an outcome that nobody waits for."""
        self._waiting.append((outcome, None))
        self._news.set()

    async def close(self) -> None:
        """Write what waits; what cannot be written now is not finished."""
        self._is_closing = True
        self._news.set()
        await self._task

    async def _run(self) -> None:
        wait_s = _FIRST_RETRY_S
        while self._waiting or not self._is_closing:
            await self._news.wait()
            self._news.clear()
            group, self._waiting = self._waiting, []
            if not group:
                continue
            try:
                data = [_encode(outcome) for outcome, _ in group]
                await asyncio.to_thread(self._journal.append, data)
            except StoreError as error:
                _log.error("results of a batch wait: %s", error)
                if self._is_closing:
                    # What lines that are asked again have used is used all the same.
                    self._note([one for one in group if one[0].output is None])
                    return
                self._waiting = group + self._waiting
                await self._pause(wait_s)
                wait_s = min(2 * wait_s, _LAST_RETRY_S)
                continue
            wait_s = _FIRST_RETRY_S
            self._note(group)

    async def _pause(self, wait_s: float) -> None:
        """Wait, or until the writer is closed."""
        end_s = asyncio.get_running_loop().time() + wait_s
        while not self._is_closing and asyncio.get_running_loop().time() < end_s:
            await asyncio.sleep(0.1)
        self._news.set()

    def _note(self, group: Sequence[tuple[Outcome, asyncio.Future[None] | None]]) -> None:
        ledger = self._ledger()
        for outcome, written in group:
            if outcome.output is None:
                self._progress.spend(outcome.row)
            else:
                self._progress.add(outcome.number, outcome.is_error, outcome.row)
            if ledger is not None:
                ledger.append(outcome.row)
            if written is not None and not written.done():
                written.set_result(None)


def _encode(outcome: Outcome) -> bytes:
    row = outcome.row._asdict()
    output, is_finished = msgspec.Raw(outcome.output or b"null"), outcome.output is not None
    return msgspec.json.encode(Entry(outcome.number, outcome.is_error, row, output, is_finished))
