"""Files that callers keep on the server: what is known of one, and what a store of them does.

In: bytes and the tenant they belong to. Out: records and open files. A name that came with a
request is text to show, never a path: stores name what they write themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Literal, Protocol, get_args

from headrace.core.frozen import frozen

UploadPurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
UPLOAD_PURPOSES: tuple[UploadPurpose, ...] = get_args(UploadPurpose)
# Of the files that a batch leaves; nobody uploads one.
BATCH_OUTPUT = "batch_output"


@frozen(kw_only=True)
class FileRecord:
    """A stored file. Units: seconds of Unix. Without `expires_at_s` it stays until deleted."""

    id: str
    tenant: str
    purpose: str
    filename: str
    num_bytes: int
    created_at_s: int
    expires_at_s: int | None = None


@frozen(kw_only=True)
class NewFile:
    """What is known of a file before it has an id."""

    tenant: str
    purpose: str
    filename: str
    expires_after_s: int | None = None


@frozen(kw_only=True)
class FilePage:
    """Which files to list. `after` is the id of the last one of the page before."""

    limit: int
    after: str | None = None
    purpose: str | None = None
    is_ascending: bool = False


class FileWriter(Protocol):
    """Bytes on their way to a file that nobody sees yet. Blocks; one thread at a time."""

    @property
    def num_bytes(self) -> int: ...

    def write(self, data: bytes) -> None:
        """Raises: StoreError."""
        ...

    def discard(self) -> None:
        """Remove what was written; after `add` it does nothing."""
        ...


class FileStore(Protocol):
    """Keeps files. Blocks; safe to call from any thread. Raises: StoreError."""

    def new_writer(self) -> FileWriter: ...

    def add(self, writer: FileWriter, new: NewFile, max_tenant_bytes: int) -> FileRecord:
        """Make what was written a file.

        Raises: RequestError when the tenant would have more than `max_tenant_bytes`.
        """
        ...

    def find(self, tenant: str, file_id: str) -> FileRecord | None:
        """None for a file that is not there, has expired, or belongs to somebody else."""
        ...

    def list(self, tenant: str, page: FilePage) -> tuple[Sequence[FileRecord], bool]:
        """A page, and whether there is more. Raises: RequestError for an unknown `after`."""
        ...

    def delete(self, tenant: str, file_id: str) -> bool:
        """False when there is no such file.

        Raises: RequestError while a batch reads it.
        """
        ...

    def open(self, record: FileRecord) -> BinaryIO:
        """The bytes of a file."""
        ...

    def sweep(self) -> int:
        """Delete what has expired and what nobody will finish; returns how many files."""
        ...
