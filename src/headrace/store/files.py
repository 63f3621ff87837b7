"""StoredFiles: callers' files, as rows of the database and bytes in a folder beside it.

In: what was uploaded, and whose it is. Out: records and open files, to the tenant they belong to
alone. The bytes come first and the row last, so that a row always has its bytes; bytes without a
row are swept away.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import ColumnElement, Row, and_, delete, exists, func, or_, select
from sqlalchemy.engine import Connection

from headrace.core.batches import UNFINISHED
from headrace.core.clock import Clock
from headrace.core.errors import InvalidParameter, RequestError
from headrace.core.files import FilePage, FileRecord, FileWriter, NewFile
from headrace.core.units import format_bytes
from headrace.store.database import Database
from headrace.store.file_folder import FileFolder, FolderWriter, is_id
from headrace.store.file_tables import PART, STEPS, batches, files

# Longer than an upload and its row are ever apart.
STRANGER_AGE_S = 24 * 3600.0


class StoredFiles:
    """See core.files.FileStore."""

    def __init__(self, database: Database, folder: FileFolder, clock: Clock) -> None:
        """Raises: StoreError when the tables cannot be made or are of a newer program."""
        self._database, self._folder, self._clock = database, folder, clock
        database.prepare(PART, STEPS)

    def new_writer(self) -> FolderWriter:
        """See core.files.FileStore."""
        return self._folder.new_writer()

    def add(self, writer: FileWriter, new: NewFile, max_tenant_bytes: int) -> FileRecord:
        """See core.files.FileStore."""
        record = self.settle(writer, new)
        try:
            with self._database.writing() as connection:
                self._check_room(connection, record, max_tenant_bytes)
                insert(connection, record)
        except BaseException:
            self._folder.delete(record.id)
            raise
        return record

    def settle(self, writer: FileWriter, new: NewFile) -> FileRecord:
        """Give the bytes their place on the disk; the row is still to be written."""
        if not isinstance(writer, FolderWriter):
            raise TypeError(f"{type(writer).__name__} is no writer of this store.")
        now_s = int(self._clock.unix_s())
        record = FileRecord(
            id=f"file-{secrets.token_hex(12)}",
            tenant=new.tenant,
            purpose=new.purpose,
            filename=new.filename,
            num_bytes=writer.num_bytes,
            created_at_s=now_s,
            expires_at_s=None if new.expires_after_s is None else now_s + new.expires_after_s,
        )
        writer.settle(record.id)
        return record

    def find(self, tenant: str, file_id: str) -> FileRecord | None:
        """See core.files.FileStore."""
        if not is_id(file_id):
            return None
        with self._database.reading() as connection:
            row = connection.execute(select(files).where(self._is_visible(tenant, file_id))).first()
        return None if row is None else _to_record(row)

    def list(self, tenant: str, page: FilePage) -> tuple[Sequence[FileRecord], bool]:
        """See core.files.FileStore."""
        query = select(files).where(files.c.tenant == tenant, self._is_alive())
        if page.purpose is not None:
            query = query.where(files.c.purpose == page.purpose)
        number = files.c.number
        with self._database.reading() as connection:
            if page.after is not None:
                named = select(number).where(files.c.tenant == tenant, files.c.id == page.after)
                after = connection.scalar(named) if is_id(page.after) else None
                if after is None:
                    raise InvalidParameter("after", page.after, "the id of a file of yours")
                query = query.where(number > after if page.is_ascending else number < after)
            query = query.order_by(number.asc() if page.is_ascending else number.desc())
            rows = connection.execute(query.limit(page.limit + 1)).all()
        return [_to_record(row) for row in rows[: page.limit]], len(rows) > page.limit

    def delete(self, tenant: str, file_id: str) -> bool:
        """See core.files.FileStore."""
        if not is_id(file_id):
            return False
        is_it = self._is_visible(tenant, file_id)
        with self._database.writing() as connection:
            # A batch that is being made holds the same row.
            if (
                connection.execute(select(files.c.id).where(is_it).with_for_update()).first()
                is None
            ):
                return False
            reader = connection.scalar(select(batches.c.id).where(_is_read(file_id)))
            if reader is not None:
                raise RequestError(
                    f"The file {file_id} is the input of {reader}, which is not finished. Wait for "
                    "its end, or cancel it first."
                )
            connection.execute(delete(files).where(files.c.id == file_id))
        self._folder.delete(file_id)
        return True

    def open(self, record: FileRecord) -> BinaryIO:
        """See core.files.FileStore."""
        return self._folder.open(record.id)

    def sweep(self) -> int:
        """See core.files.FileStore."""
        is_read = exists().where(
            batches.c.input_file_id == files.c.id, batches.c.status.in_(UNFINISHED)
        )
        is_over = and_(files.c.expires_at_s <= int(self._clock.unix_s()), ~is_read)
        with self._database.writing() as connection:
            expired = connection.scalars(select(files.c.id).where(is_over)).all()
            connection.execute(delete(files).where(is_over))
        for file_id in expired:
            self._folder.delete(file_id)
        with self._database.reading() as connection:
            known = set(connection.scalars(select(files.c.id)))
            running = select(batches.c.id).where(batches.c.status.in_(UNFINISHED))
            journals = set(connection.scalars(running))
        return len(expired) + self._folder.delete_strangers(known, journals, STRANGER_AGE_S)

    def _is_alive(self) -> ColumnElement[bool]:
        now_s = int(self._clock.unix_s())
        return or_(files.c.expires_at_s.is_(None), files.c.expires_at_s > now_s)

    def _is_visible(self, tenant: str, file_id: str) -> ColumnElement[bool]:
        return and_(files.c.tenant == tenant, files.c.id == file_id, self._is_alive())

    def _check_room(self, connection: Connection, record: FileRecord, max_bytes: int) -> None:
        """Raises: RequestError."""
        used = select(func.coalesce(func.sum(files.c.num_bytes), 0))
        num_used = int(connection.scalar(used.where(files.c.tenant == record.tenant)) or 0)
        if num_used + record.num_bytes > max_bytes:
            raise RequestError(
                f"The file has {format_bytes(record.num_bytes)} and {format_bytes(num_used)} of "
                f"files are kept already; the limit is {format_bytes(max_bytes)} "
                "(server.max_tenant_file_bytes). Delete files that are not needed.",
                "file",
            )


def insert(connection: Connection, record: FileRecord) -> None:
    """Write the row of a file."""
    connection.execute(files.insert().values(dataclasses.asdict(record)))


def find_folder(database: Database, home: Path, given: Path | None) -> Path:
    """Where the bytes are when nobody says: one folder for each database."""
    if given is not None:
        return given
    if database.path is not None:
        return database.path.with_name(f"{database.path.name}-files")
    return home / f"files-{hashlib.sha256(database.shown.encode()).hexdigest()[:12]}"


def _is_read(file_id: str) -> ColumnElement[bool]:
    return and_(batches.c.input_file_id == file_id, batches.c.status.in_(UNFINISHED))


def _to_record(row: Row[Any]) -> FileRecord:
    values = row._asdict()
    del values["number"]
    return FileRecord(**values)
