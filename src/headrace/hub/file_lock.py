"""A lock between processes: a file that is there while somebody holds it.

In: the file's path. Out: a held lock. The kernel drops it with its process, so that the file of one
that was killed holds up nobody.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def file_lock(path: Path, busy: Callable[[], None]) -> Iterator[None]:
    """Hold the lock. `busy` is called once when another process has it, and raises or waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    has_waited = False
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not has_waited:
                    busy()
                has_waited = True
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_at(lock, path):
                # Whoever held it deleted the file: the next one is the lock.
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
