"""Database: one SQLite file or one PostgreSQL database, in transactions.

In: a URL. Out: connections for reading and for writing, and tables at the version the program
knows. Everything that goes wrong is a StoreError without the password. Knows no table but its own.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    inspect,
    select,
)
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateColumn

from headrace.core.errors import ConfigError, StoreError
from headrace.core.extras import install_command

logger = logging.getLogger(__name__)

Step = Callable[[Connection], None]

_WRITES = "headrace_writes"
_BUSY_TIMEOUT_S = 5
_CONNECT_TIMEOUT_S = 5
# Any number that nobody else uses: servers that start together make the tables one by one.
_SCHEMA_LOCK = 0x6865_6164
_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
}
# A file cannot be made where there is no folder, or none that may be written to.
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)
_ALLOWED = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"

_versions = Table(
    "schema_versions",
    MetaData(),
    Column("part", String(32), primary_key=True),
    Column("version", Integer, nullable=False),
)


class Database:
    """Connects on first use. Any thread may use it."""

    def __init__(self, url: str, *, is_named: bool = False) -> None:
        """`is_named`: the user's words, of which one may be mistyped; no folder is made for them.

        Raises: ConfigError for a URL of no known kind, a missing driver, and a file that is none
        and cannot be made.
        """
        parsed = _parse(url)
        self.shown = parsed.render_as_string(hide_password=True).replace("+pysqlite", "")
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.path = Path(parsed.database or "") if self.is_sqlite else None
        self._is_named = is_named
        if self.path is not None:
            _check_place(self.path.absolute(), self.shown, is_named)
        self._inode: int | None = None
        try:
            self.engine = _make_engine(parsed)
        except ModuleNotFoundError as error:
            hint = f"{error.name} is missing; install it with {install_command('postgres')}."
            raise ConfigError("store.database_url", self.shown, _ALLOWED, hint) from None

    def exists(self) -> bool:
        """Whether there is something to read; a PostgreSQL database is assumed to be there."""
        return self.path is None or self.path.is_file()

    def create_file(self) -> None:
        """Make the folder and an empty file that only this user may read; a named one is told.

        Raises: StoreError, ConfigError for a named one that cannot be made there.
        """
        if self.path is None or self.path.exists():
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            if self._is_named and error.errno in _NOT_THERE:
                raise _wrong_place(self.shown, f"{error.strerror}: name another place") from None
            raise StoreError(self.shown, f"{error.strerror or error}.") from None
        if self._is_named:
            logger.warning("There was no database at %s: a new one is made", self.path.absolute())

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one state. Raises: StoreError."""
        with self._connected(self.engine) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that commits at the end of the block, alone in SQLite. Raises: StoreError.

        Other writers wait from its beginning, so nothing it has read can change before it commits.
        """
        with self._connected(self.engine.execution_options(**{_WRITES: True})) as connection:
            yield connection

    def prepare(self, part: str, steps: Sequence[Step]) -> None:
        """Bring the tables of a part to the newest version, one step for each version.

        Raises: StoreError, also for a database of a newer program.
        """
        with self.writing() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
            _versions.create(connection, checkfirst=True)
            found = connection.scalar(select(_versions.c.version).where(_versions.c.part == part))
            if found is not None and found > len(steps):
                reason = f"its {part} tables have version {found}, made by a newer headrace; "
                raise StoreError(self.shown, f"{reason}this one knows {len(steps)}. Update it.")
            if found == len(steps):
                return
            for step in steps[found or 0 :]:
                step(connection)
            row = {"part": part, "version": len(steps)}
            if found is None:
                connection.execute(_versions.insert().values(row))
            else:
                connection.execute(_versions.update().where(_versions.c.part == part).values(row))

    def close(self) -> None:
        """Close every connection. The next use opens new ones."""
        self.engine.dispose()

    @contextmanager
    def _connected(self, engine: Engine) -> Iterator[Connection]:
        self._check_file()
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StoreError(self.shown, _reason(error)) from None

    def _check_file(self) -> None:
        """See that connections are to the file that is there, not to one that was taken away."""
        if self.path is None:
            return
        try:
            inode = self.path.stat().st_ino
        except OSError as error:
            raise StoreError(self.shown, f"{error.strerror or error}.") from None
        if self._inode not in (None, inode):
            self.engine.dispose()
        self._inode = inode


def add_missing_columns(table: Table) -> Step:
    """A step that gives a table of an older version the columns it lacks, with their defaults."""

    def add(connection: Connection) -> None:
        known = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                clause = CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {clause}")

    return add


def open_database(url: str | None, home: Path) -> Database:
    """The database that is named, else the file in the home folder. Raises: ConfigError."""
    if url is not None:
        return Database(url, is_named=True)
    return Database(default_url(home))


def default_url(home: Path) -> str:
    """The database when nobody names one."""
    return f"sqlite:///{home / 'headrace.db'}"


def _check_place(path: Path, shown: str, is_named: bool) -> None:
    """Raises: ConfigError for a place that has no file and where none can be made."""
    if os.path.isfile(path):
        return
    if os.path.exists(path):
        raise _wrong_place(shown, f"{path} is a folder: add the name of a file")
    found = next(folder for folder in path.parents if os.path.exists(folder))
    if is_named and not os.path.isdir(found):
        raise _wrong_place(shown, f"{found} is a file: name another place")
    if is_named and found != path.parent:
        raise _wrong_place(shown, f"{path.parent} does not exist: create it")
    if is_named and not os.access(found, os.W_OK | os.X_OK):
        raise _wrong_place(shown, f"{found} may not be written to: name another place")
    if not os.path.isdir(found):
        raise ConfigError(
            "hub.home (HEADRACE_HOME)",
            str(path.parent),
            "a folder, or a place where one can be made",
            f"{found} is a file. Name another folder, or leave it out for ~/.cache/headrace.",
        )


def _wrong_place(shown: str, reason: str) -> ConfigError:
    hint = f"{reason}, or check --database and HEADRACE_DATABASE."
    return ConfigError("store.database_url", shown, "a file in a folder that exists", hint)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):
        # What was given may hold a password, so it is not shown.
        raise ConfigError("store.database_url", "no database URL", _ALLOWED) from None
    kind = parsed.drivername.partition("+")[0]
    shown = parsed.render_as_string(hide_password=True)
    if kind not in _DRIVERS or (kind == "sqlite" and parsed.database in (None, "", ":memory:")):
        raise ConfigError("store.database_url", shown, _ALLOWED)
    if kind == "sqlite" and parsed.query:
        raise ConfigError("store.database_url", shown, _ALLOWED, "A file has nothing behind a ?.")
    return parsed.set(drivername=_DRIVERS[kind])


def _make_engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": _BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    # A server without an encoding (locale C) would give bytes for text.
    arguments = {"connect_timeout": _CONNECT_TIMEOUT_S, "client_encoding": "utf8"}
    return create_engine(url, pool_pre_ping=True, connect_args=arguments)


def _set_up_sqlite(connection: Any, _: object) -> None:
    """Write-ahead log: readers and the writer do not wait for each other."""
    # Transactions begin where `_begin_sqlite` says so and not at the first change.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _begin_sqlite(connection: Connection) -> None:
    is_writing = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _reason(error: SQLAlchemyError) -> str:
    """What the driver said, on one line, without the statement and its values."""
    cause = getattr(error, "orig", None) or error
    text = " ".join(str(cause).split()) or type(cause).__name__
    return f"{text}." if not text.endswith(".") else text
