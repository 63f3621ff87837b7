"""ShadowFiles: records of comparisons as JSON lines, a file for each UTC day.

In: records. Out: files that end with their time. Written in a thread, one record after the other;
what a disk refuses is logged once and lost.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

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
        if today != self._day:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_old(today)
            self._day, self._has_told = today, False
        path = self._folder / f"shadow-{today.isoformat()}.jsonl"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _ONLY_OWNER)
        try:
            if os.fstat(file).st_size + len(line) > self._max_bytes:
                self._tell(f"hold {self._max_bytes} bytes today, as many as may be")
                return
            os.write(file, line)
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


def read_records(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Records of files, or of all files of folders. Raises: ConfigError naming the line."""
    for path in paths:
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        for file in files:
            yield from _read_file(file)


def _read_file(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("FILE", str(path), f"a file of JSON lines ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            # A server that was killed leaves half a line at the end.
            if number == len(lines):
                continue
            record = None
        if not isinstance(record, dict):
            raise ConfigError(f"{path}:{number}", line[:80], "a JSON object on each line")
        yield record
