"""StoredBatches: batches as rows, their journals in the folder of files.

In: what callers ask for, and what the one process that runs batches says of them. Out: records. A
status changes only from one that the writer names, so that a cancellation is never overwritten.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Sequence
from typing import Any, BinaryIO

from sqlalchemy import Row, and_, delete, func, select, update
from sqlalchemy.engine import Connection

from headrace.core.batches import UNFINISHED, BatchRecord, BatchStatus, LineError, NewBatch
from headrace.core.clock import Clock
from headrace.core.errors import InvalidParameter, RateLimited
from headrace.core.files import FileWriter, NewFile
from headrace.core.usage import Usage
from headrace.store.database import Database
from headrace.store.file_folder import FileFolder, FileJournal, is_id
from headrace.store.file_tables import batches, files
from headrace.store.files import StoredFiles, insert

# When a batch that runs will end is not known.
_FULL_RETRY_S = 60.0


class StoredBatches:
    """See core.batches.BatchStore."""

    def __init__(
        self,
        database: Database,
        folder: FileFolder,
        stored_files: StoredFiles,
        clock: Clock,
        retention_days: int,
    ) -> None:
        """The tables are those that `stored_files` has prepared."""
        self._database, self._folder = database, folder
        self._files, self._clock = stored_files, clock
        self._retention_s = retention_days * 24 * 3600

    def create(self, new: NewBatch, max_unfinished: int) -> BatchRecord:
        """See core.batches.BatchStore."""
        now_s = int(self._clock.unix_s())
        record = BatchRecord(
            id=f"batch_{secrets.token_hex(16)}",
            tenant=new.tenant,
            key_id=new.key_id,
            endpoint=new.endpoint,
            input_file_id=new.input_file_id,
            created_at_s=now_s,
            expires_at_s=now_s + new.window_s,
            metadata=new.metadata,
            output_expires_after_s=new.output_expires_after_s,
        )
        with self._database.writing() as connection:
            self._check_input(connection, new)
            _check_number(connection, new.tenant, max_unfinished)
            connection.execute(batches.insert().values(_to_values(record)))
        return record

    def find(self, tenant: str, batch_id: str) -> BatchRecord | None:
        """See core.batches.BatchStore."""
        if not is_id(batch_id):
            return None
        query = select(batches).where(batches.c.tenant == tenant, batches.c.id == batch_id)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else _to_record(row)

    def list(
        self, tenant: str, limit: int, after: str | None
    ) -> tuple[Sequence[BatchRecord], bool]:
        """See core.batches.BatchStore."""
        query = select(batches).where(batches.c.tenant == tenant)
        number = batches.c.number
        with self._database.reading() as connection:
            if after is not None:
                named = select(number).where(batches.c.tenant == tenant, batches.c.id == after)
                found = connection.scalar(named) if is_id(after) else None
                if found is None:
                    raise InvalidParameter("after", after, "the id of a batch of yours")
                query = query.where(number < found)
            rows = connection.execute(query.order_by(number.desc()).limit(limit + 1)).all()
        return [_to_record(row) for row in rows[:limit]], len(rows) > limit

    def unfinished(self) -> Sequence[BatchRecord]:
        """See core.batches.BatchStore."""
        query = select(batches).where(batches.c.status.in_(UNFINISHED)).order_by(batches.c.number)
        with self._database.reading() as connection:
            return [_to_record(row) for row in connection.execute(query)]

    def sweep(self) -> int:
        """See core.batches.BatchStore."""
        oldest_s = int(self._clock.unix_s()) - self._retention_s
        is_over = and_(~batches.c.status.in_(UNFINISHED), batches.c.created_at_s < oldest_s)
        with self._database.writing() as connection:
            return connection.execute(delete(batches).where(is_over)).rowcount

    def advance(
        self, batch_id: str, before: Sequence[BatchStatus], after: BatchStatus, **changes: Any
    ) -> bool:
        """See core.batches.BatchStore."""
        with self._database.writing() as connection:
            return self._advance(connection, batch_id, before, after, **changes)

    def note_progress(self, batch_id: str, completed: int, failed: int, usage: Usage) -> None:
        """See core.batches.BatchStore."""
        values = {"num_completed": completed, "num_failed": failed, "usage": _dump(usage)}
        with self._database.writing() as connection:
            connection.execute(update(batches).where(batches.c.id == batch_id).values(values))

    def finish(
        self,
        record: BatchRecord,
        after: BatchStatus,
        results: Sequence[tuple[FileWriter, NewFile] | None],
    ) -> None:
        """See core.batches.BatchStore."""
        settled = [None if part is None else self._files.settle(*part) for part in results]
        output, error = settled
        with self._database.writing() as connection:
            is_changed = self._advance(
                connection,
                record.id,
                UNFINISHED,
                after,
                output_file_id=output and output.id,
                error_file_id=error and error.id,
            )
            for part in settled:
                # Somebody else has ended it: the files are swept away.
                if part is not None and is_changed:
                    insert(connection, part)

    def open_input(self, record: BatchRecord) -> BinaryIO | None:
        """See core.batches.BatchStore."""
        return self._folder.find(record.input_file_id)

    def open_journal(self, batch_id: str) -> FileJournal:
        """See core.batches.BatchStore."""
        return self._folder.open_journal(batch_id)

    def delete_journal(self, batch_id: str) -> None:
        """See core.batches.BatchStore."""
        self._folder.delete_journal(batch_id)

    def try_to_own(self) -> bool:
        """See core.batches.BatchStore."""
        return self._folder.try_to_own()

    def _advance(
        self,
        connection: Connection,
        batch_id: str,
        before: Sequence[BatchStatus],
        after: BatchStatus,
        **changes: Any,
    ) -> bool:
        is_it = and_(batches.c.id == batch_id, batches.c.status.in_(before))
        # Locks the row where transactions do not come one by one.
        row = connection.execute(select(batches.c.times).where(is_it).with_for_update()).first()
        if row is None:
            return False
        times = json.loads(row.times) | {after: int(self._clock.unix_s())}
        if "errors" in changes:
            changes["errors"] = _dump_errors(changes["errors"])
        values = changes | {"status": after, "times": json.dumps(times)}
        connection.execute(update(batches).where(is_it).values(values))
        return True

    def _check_input(self, connection: Connection, new: NewBatch) -> None:
        """Raises: InvalidParameter."""
        found = (
            select(files.c.purpose, files.c.expires_at_s)
            .where(files.c.tenant == new.tenant, files.c.id == new.input_file_id)
            .with_for_update()
        )
        row = connection.execute(found).first() if is_id(new.input_file_id) else None
        allowed = "the id of a file of yours with purpose batch"
        now_s = self._clock.unix_s()
        if row is None or (row.expires_at_s is not None and row.expires_at_s <= now_s):
            raise InvalidParameter("input_file_id", new.input_file_id, allowed)
        if row.purpose != "batch":
            hint = f"This file has purpose {row.purpose}."
            raise InvalidParameter("input_file_id", new.input_file_id, allowed, hint)


def _check_number(connection: Connection, tenant: str, max_unfinished: int) -> None:
    """Raises: RateLimited."""
    is_open = and_(batches.c.tenant == tenant, batches.c.status.in_(UNFINISHED))
    num_open = connection.scalar(select(func.count(batches.c.number)).where(is_open)) or 0
    if num_open >= max_unfinished:
        raise RateLimited(
            f"{num_open} batches are not finished, which is the limit "
            "(server.max_tenant_batches). Wait for one to end, or cancel one.",
            _FULL_RETRY_S,
        )


def _dump(usage: Usage) -> str:
    return json.dumps(dataclasses.asdict(usage))


def _dump_errors(errors: Sequence[LineError]) -> str:
    return json.dumps([dataclasses.asdict(error) for error in errors])


def _to_values(record: BatchRecord) -> dict[str, Any]:
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return values | {
        "metadata": json.dumps(record.metadata),
        "errors": _dump_errors(record.errors),
        "times": json.dumps(dict(record.times)),
        "usage": _dump(record.usage),
    }


def _to_record(row: Row[Any]) -> BatchRecord:
    values = row._asdict()
    del values["number"]
    return BatchRecord(
        **values
        | {
            "metadata": json.loads(values["metadata"]),
            "errors": tuple(LineError(**error) for error in json.loads(values["errors"])),
            "times": json.loads(values["times"]),
            "usage": Usage(**json.loads(values["usage"])),
        }
    )
