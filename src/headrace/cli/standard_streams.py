"""Standard streams that cannot be written to: closed ones, full ones, narrow encodings.

In: the streams of this process, what writing to them raised. Out: streams that can be written to or
that raise what a file would, and sentences that name stdout.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any

STDOUT = "<stdout>"

_REASONS = {
    errno.EBADF: "is closed. Send it to a file, a program or a terminal, or to /dev/null.",
    errno.ENOSPC: "cannot be written: no space left where it goes. Send it somewhere else.",
}


class _Output(io.FileIO):
    """The file behind stdout; its errors name it."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = STDOUT
            raise


def prepare() -> None:
    """Have writing to stdout raise errors that name it, and closed streams be a place again.

    What is written to a closed stderr is gone. Mutates: sys.
    """
    if sys.stdout is None or sys.stderr is None:
        # No file that is opened later gets their numbers by accident.
        while (descriptor := os.open(os.devnull, os.O_RDONLY)) < 2:
            pass
        if descriptor > 2:
            os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - stays open
    before = sys.stdout
    raw = _Output(1, "w", closefd=False)
    is_buffered = before is None or not isinstance(before.buffer, io.RawIOBase)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw) if is_buffered else raw,
        encoding="utf-8" if before is None else before.encoding,
        errors="strict" if before is None else before.errors,
        line_buffering=raw.isatty(),
        write_through=not is_buffered,
    )


def write_out() -> None:
    """Write what is buffered for stdout. Raises: OSError."""
    if sys.stdout is not None:
        sys.stdout.flush()


def drop_rest() -> None:
    """Keep what stdout did not take from being an error once more, when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def told_of(error: OSError | UnicodeEncodeError) -> str | None:
    """The error as a sentence about stdout; None where it was something else."""
    if isinstance(error, UnicodeEncodeError):
        return _told_of_text(error)
    if error.filename != STDOUT:
        return None
    default = f"cannot be written: {error.strerror}."
    return f"stdout {_REASONS.get(error.errno or 0, default)}"


def _told_of_text(error: UnicodeEncodeError) -> str | None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if codecs.lookup(error.encoding).name != codecs.lookup(encoding).name:
        return None
    character = error.object[error.start]
    return (
        f"stdout is written in {encoding}, which has no {character!a} (U+{ord(character):04X})"
        ". Set PYTHONIOENCODING=utf-8, or leave it out and choose a locale of UTF-8, such as "
        "LC_ALL=C.UTF-8."
    )
