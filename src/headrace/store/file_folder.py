"""FileFolder: the bytes of files and the journals of batches, in a folder of this program alone.

In: bytes, and ids that the program made. Out: files on the disk, whole or not at all. Which files
there should be, and whose they are, is written in the database and not known here.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from headrace.core.errors import FolderError

_ID = re.compile(r"(file-|batch_)[0-9a-f]{24,32}")


def is_id(text: str) -> bool:
    """Whether this program may have made the id: nothing else is ever looked for."""
    return _ID.fullmatch(text) is not None


class FileFolder:
    """`files/` holds what callers see, `parts/` what is being written, `journals/` batches."""

    def __init__(self, path: Path) -> None:
        """Raises: FolderError."""
        self.path = path
        self._lock: BinaryIO | None = None
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in (path, path / "files", path / "parts", path / "journals"):
                folder.mkdir(mode=0o700, exist_ok=True)

    def new_writer(self) -> FolderWriter:
        """Raises: FolderError."""
        return FolderWriter(self.path)

    def open(self, file_id: str) -> BinaryIO:
        """Raises: FolderError."""
        with explained(self.path):
            return self._place("files", file_id).open("rb")

    def find(self, file_id: str) -> BinaryIO | None:
        """None when the file is not there. Raises: FolderError."""
        with explained(self.path), suppress(FileNotFoundError):
            return self._place("files", file_id).open("rb")
        return None

    def delete(self, file_id: str) -> None:
        """Deleting what is not there is harmless. Raises: FolderError."""
        with explained(self.path):
            self._place("files", file_id).unlink(missing_ok=True)

    def open_journal(self, batch_id: str) -> FileJournal:
        """Raises: FolderError."""
        return FileJournal(self._place("journals", batch_id))

    def delete_journal(self, batch_id: str) -> None:
        """Raises: FolderError."""
        with explained(self.path):
            self._place("journals", batch_id).unlink(missing_ok=True)

    def delete_strangers(
        self, file_ids: Collection[str], batch_ids: Collection[str], older_than_s: float
    ) -> int:
        """Delete what no row names and nobody has touched for a while; returns how many."""
        deadline_s, num_deleted = time.time() - older_than_s, 0
        known = {"files": file_ids, "parts": (), "journals": batch_ids}
        with explained(self.path):
            for name, ids in known.items():
                for entry in os.scandir(self.path / name):
                    with suppress(FileNotFoundError):
                        if entry.name not in ids and entry.stat().st_mtime < deadline_s:
                            os.unlink(entry)
                            num_deleted += 1
        return num_deleted

    def try_to_own(self) -> bool:
        """Take the lock of the folder, which any end of the process gives back."""
        if self._lock is not None:
            return True
        with explained(self.path):
            lock = (self.path / "owner.lock").open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return False
        self._lock = lock
        return True

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _place(self, kind: str, name: str) -> Path:
        """Only ids that this program made are ever a part of a path."""
        if not is_id(name):
            raise ValueError(f"{name!r} is no id of a file or batch.")
        return self.path / kind / name


class FolderWriter:
    """A FileWriter. What was written has no name that anybody knows until `settle`."""

    def __init__(self, folder: Path) -> None:
        """Raises: FolderError."""
        self._folder = folder
        self._path = folder / "parts" / secrets.token_hex(16)
        self.num_bytes = 0
        with explained(folder):
            self._file = os.fdopen(
                os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb"
            )
        self._is_over = False

    def write(self, data: bytes) -> None:
        """Raises: FolderError."""
        with explained(self._folder):
            self._file.write(data)
        self.num_bytes += len(data)

    def settle(self, file_id: str) -> None:
        """Give the bytes their name, on the disk for good. Raises: FolderError."""
        with explained(self._folder):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.rename(self._path, self._folder / "files" / file_id)
            sync_folder(self._folder / "files")
        self._is_over = True

    def discard(self) -> None:
        """See core.files.FileWriter."""
        if not self._is_over:
            self._is_over = True
            # What is still in the buffer may find no room.
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                self._path.unlink()


class FileJournal:
    """A Journal. A line that was cut off by the end of a process or a full disk is no line."""

    def __init__(self, path: Path) -> None:
        """Raises: FolderError."""
        self._path = path
        # A file must not be closed under a thread that writes: its number may be another one's.
        self._lock = threading.Lock()
        with explained(path):
            is_new = not path.exists()
            self._file = os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+b", buffering=0)
            self._end = self._find_end()
            self._file.truncate(self._end)
            if is_new:
                sync_folder(path.parent)

    def read(self) -> Iterator[bytes]:
        """See core.batches.Journal."""
        with explained(self._path), self._path.open("rb") as file:
            while file.tell() < self._end:
                yield file.readline().rstrip(b"\n")

    def append(self, lines: Sequence[bytes]) -> None:
        """See core.batches.Journal."""
        data = b"".join(line + b"\n" for line in lines)
        with self._lock:
            self._append(data)

    def _append(self, data: bytes) -> None:
        try:
            with explained(self._path):
                if self._file.closed:
                    raise OSError("the journal is closed")
                _write_at(self._file.fileno(), data, self._end)
                os.fsync(self._file.fileno())
        except FolderError:
            with suppress(OSError, ValueError):
                self._file.truncate(self._end)
            raise
        self._end += len(data)

    def close(self) -> None:
        """See core.batches.Journal."""
        with self._lock:
            self._file.close()

    def _find_end(self) -> int:
        """Where the last whole line ends, searched from behind."""
        position = self._file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - 2**16)
            self._file.seek(start)
            found = self._file.read(position - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            position = start
        return 0


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        num_written = os.pwrite(descriptor, view, offset)
        view, offset = view[num_written:], offset + num_written


def sync_folder(path: Path) -> None:
    """Make names in a folder outlive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raises: FolderError for whatever the operating system says in the block."""
    try:
        yield
    except OSError as error:
        raise FolderError(path, error.strerror or str(error)) from None
