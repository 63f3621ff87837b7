"""ShadowFiles: records of comparisons as JSON lines, a file for each UTC day.

In: records. Out: files that end with their time. Written in a thread, one record after the other;
what a disk refuses is logged once and lost.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeGuard

from headrace.core.clock import Clock
from headrace.core.errors import ConfigError

_log = logging.getLogger(__name__)

_FILE = re.compile(r"shadow-(\d{4}-\d{2}-\d{2})\.jsonl")
_ONLY_OWNER = 0o600


class ShadowFiles:
    """See router.shadow.ShadowLog. Belongs to one event loop."""

    def __init__(self, folder: Path, retention_days: int, max_bytes: int, clock: Clock) -> None:
        self._folder, self._retention_days = folder, retention_days
        self._max_bytes, self._clock = max_bytes, clock
        self._lock = asyncio.Lock()
        self._day: date | None = None
        self._has_told = False

    async def add(self, record: Mapping[str, Any]) -> None:
        """Write a record; of a new day old files are removed first."""
        line = json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        async with self._lock:
            try:
                await asyncio.to_thread(self._write, line)
            except OSError as error:
                self._tell(f"cannot be written: {error.strerror or error}")

    def _write(self, line: bytes) -> None:
        today = datetime.fromtimestamp(self._clock.unix_s(), UTC).date()
        is_first = today != self._day
        if is_first:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_old(today)
            self._day, self._has_told = today, False
        path = self._folder / f"shadow-{today.isoformat()}.jsonl"
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _ONLY_OWNER)
        try:
            if is_first:
                _cut_half_line(file)
            num_bytes = os.fstat(file).st_size
            if num_bytes + len(line) > self._max_bytes:
                self._tell(f"hold {self._max_bytes} bytes today, as many as may be")
            elif os.write(file, line) < len(line):
                os.ftruncate(file, num_bytes)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)

    def _remove_old(self, today: date) -> None:
        first = today - timedelta(days=self._retention_days - 1)
        for path in self._folder.iterdir():
            match = _FILE.fullmatch(path.name)
            if match and date.fromisoformat(match.group(1)) < first:
                path.unlink(missing_ok=True)

    def _tell(self, what: str) -> None:
        if not self._has_told:
            self._has_told = True
            _log.warning("records of comparisons in %s %s", self._folder, what)


def _cut_half_line(file: int) -> None:
    """The end of a machine may leave one; the next record would be lost with it."""
    num_bytes = os.fstat(file).st_size
    if num_bytes and os.pread(file, 1, num_bytes - 1) != b"\n":
        os.ftruncate(file, os.pread(file, num_bytes, 0).rfind(b"\n") + 1)


def read_records(paths: Iterable[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of files, or of all files of folders, each with where it is: `FILE:LINE`.

    Raises: ConfigError naming the line.
    """
    for path in paths:
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files:
            raise ConfigError("FILE", str(path), "a folder with files that end with .jsonl")
        for file in files:
            yield from _read_file(file)


def _read_file(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    has_records = False
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                record = _read_line(line)
                if record is None:
                    # A server that was killed leaves half a line at the end.
                    if not line.strip() or (has_records and not line.endswith("\n")):
                        continue
                    allowed = "a JSON object on each line"
                    raise ConfigError(f"{path}:{number}", line[:80].rstrip(), allowed)
                has_records = True
                yield f"{path}:{number}", record
    except OSError as error:
        raise ConfigError("FILE", str(path), "a file of JSON lines", f"{error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError("FILE", str(path), "a file of JSON lines, which is UTF-8") from None


def _read_line(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of a record is one to reckon with."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def read_agreement(where: str, record: Mapping[str, Any]) -> float | None:
    """How far two answers agreed; None of a comparison that failed. Raises: ConfigError."""
    agreed = record.get("agreement")
    if agreed is not None and (not is_number(agreed) or not 0 <= agreed <= 1):
        raise ConfigError(f"agreement of {where}", agreed, "a number from 0 to 1, or null")
    return agreed
