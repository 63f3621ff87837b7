"""SpillFile: usage rows that wait on disk until the database takes them.

In: rows that memory has no room for, or that a stop left over. Out: the same rows, also those of
processes that ended. Each process writes a file of its own, locked while it lives. Knows no table.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from headrace.economics.usage_row import UsageRow

logger = logging.getLogger(__name__)

_CHUNK_ROWS = 500
_NAMES = "usage-*.jsonl"


class SpillFile:
    """Used by one thread. Units: `max_bytes` is for the files of all processes together."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._path = folder / f"usage-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._file: IO[bytes] | None = None

    @property
    def shown(self) -> str:
        """Where rows wait, for people."""
        return str(self._path)

    def add(self, rows: Iterable[UsageRow]) -> int:
        """Append rows while there is room; returns how many are safely on disk."""
        data, sizes = bytearray(), []
        room = self._max_bytes - sum(path.stat().st_size for path in self._files())
        for row in rows:
            line = json.dumps(row._asdict()).encode() + b"\n"
            if len(data) + len(line) > room:
                break
            data += line
            sizes.append(len(line))
        return len(sizes) if data and self._write(bytes(data)) else 0

    def waiting(self) -> Iterator[tuple[Path, Iterator[Sequence[UsageRow]]]]:
        """Files of this process and of those that ended, with their rows in chunks.

        `remove` a file once its rows are in the database.
        """
        self.close()
        for path in self._files():
            try:
                file = path.open("rb")
            except OSError:
                continue
            with file:
                if _lock(file):
                    yield path, _read(path, file)

    def remove(self, path: Path) -> None:
        """Delete a file whose rows are safe."""
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the own file; another process may take its rows then."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(_NAMES))

    def _write(self, data: bytes) -> bool:
        """Append all of it or nothing: a full disk would leave half a row."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self._file is None:
                handle = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
                self._file = os.fdopen(handle, "ab", buffering=0)
                _lock(self._file)
            size = os.fstat(self._file.fileno()).st_size
            try:
                written = self._file.write(data)
                os.fsync(self._file.fileno())
            except OSError:
                written = -1
            if written != len(data):
                self._file.truncate(size)
            return written == len(data)
        except OSError:
            return False


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _read(path: Path, lines: Iterable[bytes]) -> Iterator[Sequence[UsageRow]]:
    chunk: list[UsageRow] = []
    for number, line in enumerate(lines, 1):
        try:
            chunk.append(UsageRow(**json.loads(line)))
        except (ValueError, TypeError):
            logger.error("%s:%d is no usage row; it is lost.", path, number)
        if len(chunk) == _CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
