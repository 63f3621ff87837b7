"""Files mapped into memory, read-only."""

from __future__ import annotations

import mmap
from pathlib import Path

from headrace.core.errors import ModelFileError


def map_file(path: Path) -> mmap.mmap:
    """Map a whole file.

    Raises: ModelFileError if it is empty or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # what mmap raises for a file of no bytes
        raise ModelFileError(f"{path} is empty.") from error
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error


def unmap_file(mapped: mmap.mmap) -> None:
    """Let go of a file; what still points into it keeps the mapping alive until it goes itself.

    That may be a tensor, or the read that an interrupt came into: its exception must stay the one
    that is raised.
    """
    try:
        mapped.close()
    except BufferError:
        return
