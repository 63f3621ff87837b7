"""BatchRun: one batch, from its file to its results.

In: the record as an earlier start has left it. Out: statuses, results, usage. Lines that are in the
journal are not asked again. Cancelling the task leaves the batch to the next start; `stop` ends it
with what is finished.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, closing
from dataclasses import replace
from itertools import islice
from typing import BinaryIO, Literal, TypeVar

from headrace.core.batches import BatchRecord, BatchStatus, LineError
from headrace.core.errors import StoreError
from headrace.core.frozen import frozen
from headrace.core.telemetry import BATCH_REQUESTS
from headrace.server.batch_call import BatchCall, Route
from headrace.server.batch_journal import JournalWriter, Progress, read_progress
from headrace.server.batch_lines import (
    CHECKED,
    BatchLine,
    InputFacts,
    LineLimits,
    check_input,
    parse_line,
    read_lines,
    weigh,
)
from headrace.server.batch_results import finish_batch
from headrace.server.json_body import JsonLimits
from headrace.server.services import Services, Storage
from headrace.server.slots import Slots

Reason = Literal["cancelled", "expired"]
T = TypeVar("T")

_LINES_AT_ONCE, _BYTES_AT_ONCE = 64, 1024**2
_RETRY_S = 2.0
_NOTE_S = 1.0
_log = logging.getLogger(__name__)


@frozen
class Turns:
    """What batches share: answers at a time, and bytes of the lines that are answered. `tenant`
    lets one batch of a tenant answer at a time, the oldest first; `reading` one be checked at a
    time."""

    slots: Slots
    room: Slots
    tenant: asyncio.Lock
    reading: asyncio.Lock


class BatchRun:
    """Runs in a task of its own."""

    def __init__(
        self, services: Services, storage: Storage, route: Route, record: BatchRecord, turns: Turns
    ) -> None:
        self.record = record
        self._services, self._storage, self._route, self._turns = services, storage, route, turns
        config = services.config
        self._limits = LineLimits(config.max_body_bytes, JsonLimits.of(config))
        self._progress = Progress()
        self._reason: Reason | None = None
        self._stopped = asyncio.Event()

    def stop(self, reason: Reason) -> None:
        """Answer no more lines and end the batch. The first reason counts."""
        self._reason = self._reason or reason
        self._stopped.set()

    async def run(self) -> None:
        """Bring the batch to its end, or as far as the task lives."""
        await self._restore()
        errors: tuple[LineError, ...] = ()
        if self._reason is None and self.record.status != "finalizing":
            errors = await self._work_until_stopped()
        if self.record.status == "validating" and errors:
            await self._insist(lambda: self._advance("validating", "failed", errors=errors))
        else:
            await self._finish(errors)
        await self._insist(lambda: self._storage.batches.delete_journal(self.record.id))

    async def _restore(self) -> None:
        """Find out what earlier starts have finished, and hand their usage in again."""

        def read() -> None:
            with closing(self._storage.batches.open_journal(self.record.id)) as journal:
                self._progress, rows = read_progress(journal)
            ledger = self._services.accounts.ledger
            if ledger is not None:
                for row in rows:
                    ledger.append(row)

        await self._insist(read)
        if self._progress.done:
            _log.info("%s goes on after %d lines", self.record.id, len(self._progress.done))

    async def _work_until_stopped(self) -> tuple[LineError, ...]:
        """Why the batch fails; nothing when it was stopped or every line is finished."""
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else ()
        finally:
            work.cancel()
            stopped.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)

    async def _work(self) -> tuple[LineError, ...]:
        file = await self._insist(lambda: self._storage.batches.open_input(self.record))
        if file is None:
            return (LineError("file_not_found", "The input file is no longer there."),)
        with closing(file):
            if self.record.status == "validating":
                errors = await self._validate(file)
                if errors:
                    return errors
            async with self._turns.tenant:
                await self._answer(file)
        return ()

    async def _validate(self, file: BinaryIO) -> tuple[LineError, ...]:
        def check() -> InputFacts:
            file.seek(0)
            return check_input(file, self.record.endpoint, self._limits)

        async with self._turns.reading:
            facts = await asyncio.to_thread(check)
        if facts.errors:
            return facts.errors
        changes = {"num_total": facts.num_lines, "model": facts.model}
        if not await self._insist(lambda: self._advance("validating", "in_progress", **changes)):
            await self._stopped.wait()
        self.record = replace(
            self.record, status="in_progress", num_total=facts.num_lines, model=facts.model
        )
        return ()

    async def _answer(self, file: BinaryIO) -> None:
        """Answer every line that is not finished."""
        journal = await self._insist(lambda: self._storage.batches.open_journal(self.record.id))
        with closing(journal):
            writer = JournalWriter(journal, self._progress, lambda: self._services.accounts.ledger)
            noting = asyncio.create_task(self._note_progress())
            try:
                await self._ask_lines(file, writer)
            finally:
                noting.cancel()
                await writer.close()
                await asyncio.gather(noting, return_exceptions=True)

    async def _ask_lines(self, file: BinaryIO, writer: JournalWriter) -> None:
        services, route, record = self._services, self._route, self.record
        call = BatchCall(services, route, record, writer.add, lambda: self._reason)

        async def answer(line: BatchLine) -> None:
            outcome = await call.answer(line)
            await writer.put(outcome)
            word = "failed" if outcome.is_error else "completed"
            self._services.metrics.add(BATCH_REQUESTS, outcome=word)

        async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
            lines = await stack.enter_async_context(aclosing(self._lines(file)))
            async for line in lines:
                give_back = await self._take_turn(line)
                task = group.create_task(answer(line))
                # A task that is cancelled before it has begun runs no `finally`.
                task.add_done_callback(give_back)
                # Several slots may be free: the next one is another batch's, if one waits.
                await asyncio.sleep(0)

    async def _take_turn(self, line: BatchLine) -> Callable[[object], None]:
        """Wait until a line may be answered; returns what ends its turn."""
        slots, room = self._turns.slots, self._turns.room
        num_bytes = await room.take(line.num_bytes)
        try:
            num_taken = await slots.take(weigh(line.body))
        except BaseException:
            room.give(num_bytes)
            raise

        def give_back(_: object) -> None:
            slots.give(num_taken)
            room.give(num_bytes)

        return give_back

    async def _lines(self, file: BinaryIO) -> AsyncGenerator[BatchLine, None]:
        """Lines that are not finished."""
        file.seek(0)
        numbered = read_lines(file, CHECKED.max_bytes)

        def read_some() -> list[tuple[int, bytes]]:
            found, num_bytes = [], 0
            for number, data in islice(numbered, _LINES_AT_ONCE):
                found.append((number, data))
                num_bytes += len(data)
                if num_bytes >= _BYTES_AT_ONCE:
                    break
            return found

        while found := await asyncio.to_thread(read_some):
            for number, data in found:
                if number not in self._progress.done:
                    yield parse_line(number, data, self.record.endpoint, CHECKED)

    async def _note_progress(self) -> None:
        """Let callers see how far it is."""
        noted = len(self._progress.done)
        while True:
            await asyncio.sleep(_NOTE_S)
            if len(self._progress.done) != noted:
                noted = len(self._progress.done)
                await self._insist(self._write_progress)

    def _write_progress(self) -> None:
        progress = self._progress
        self._storage.batches.note_progress(
            self.record.id, progress.num_completed, progress.num_failed, progress.usage
        )

    async def _finish(self, errors: tuple[LineError, ...]) -> None:
        is_complete = len(self._progress.done) >= self.record.num_total > 0
        after: BatchStatus = "completed" if is_complete else "expired"
        if self._reason == "cancelled":
            after = "cancelled"
        if errors:
            after = "failed"
        if after != "cancelled" and self.record.status != "finalizing":
            changes = {"errors": errors} if errors else {}
            is_ours = await self._insist(
                lambda: self._advance(self.record.status, "finalizing", **changes)
            )
            if not is_ours:
                # Cancelled in this moment.
                after = "cancelled"
        await self._insist(lambda: finish_batch(self.record, after, self._progress, self._storage))
        _log.info("%s is %s", self.record.id, after)

    def _advance(self, before: BatchStatus, after: BatchStatus, **changes: object) -> bool:
        return self._storage.batches.advance(self.record.id, (before,), after, **changes)

    async def _insist(self, work: Callable[[], T]) -> T:
        """Do it as soon as the store can be reached."""
        is_first = True
        while True:
            try:
                return await asyncio.to_thread(work)
            except StoreError as error:
                if is_first:
                    _log.error("%s waits: %s", self.record.id, error)
                is_first = False
                await asyncio.sleep(_RETRY_S)
