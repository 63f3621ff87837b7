"""Batches: a file of requests to answer below interactive traffic, and what a store of them does.

In: what a caller asked for. Out: records, and a journal per batch: the lines that are finished,
each written once and whole, so that a batch goes on where it was after any end of the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, BinaryIO, Literal, Protocol

from headrace.core.files import FileWriter, NewFile
from headrace.core.frozen import frozen
from headrace.core.usage import Usage

BatchStatus = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
UNFINISHED: tuple[BatchStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")


@frozen
class LineError:
    """Why an input file was not taken. `line` counts from 1; None is the file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@frozen(kw_only=True)
class NewBatch:
    """What a caller asks for. Units: seconds."""

    tenant: str
    key_id: str | None
    endpoint: str
    input_file_id: str
    window_s: int
    metadata: Mapping[str, str] | None = None
    output_expires_after_s: int | None = None


@frozen(kw_only=True)
class BatchRecord:
    """A batch. Units: seconds of Unix. `times` holds when each status began.

    `usage` and the counts are of the lines that were answered; `num_failed` got an error.
    """

    id: str
    tenant: str
    key_id: str | None
    endpoint: str
    input_file_id: str
    created_at_s: int
    expires_at_s: int
    status: BatchStatus = "validating"
    metadata: Mapping[str, str] | None = None
    output_expires_after_s: int | None = None
    model: str | None = None
    errors: tuple[LineError, ...] = ()
    times: Mapping[BatchStatus, int] = field(default_factory=dict)
    num_total: int = 0
    num_completed: int = 0
    num_failed: int = 0
    usage: Usage = field(default_factory=Usage)
    output_file_id: str | None = None
    error_file_id: str | None = None


class Journal(Protocol):
    """The finished lines of a batch, in the order in which they finished. Blocks; one thread."""

    def read(self) -> Iterator[bytes]:
        """Every whole line."""
        ...

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines without line breaks of their own; they are on the disk when it returns.

        Raises: StoreError; then none of them is there.
        """
        ...

    def close(self) -> None: ...


class BatchStore(Protocol):
    """Keeps batches. Blocks; safe to call from any thread. Raises: StoreError."""

    def create(self, new: NewBatch, max_unfinished: int) -> BatchRecord:
        """Raises: RequestError for an unknown file, or when too many are unfinished."""
        ...

    def find(self, tenant: str, batch_id: str) -> BatchRecord | None: ...

    def list(
        self, tenant: str, limit: int, after: str | None
    ) -> tuple[Sequence[BatchRecord], bool]:
        """The newest first, and whether there is more. Raises: RequestError for unknown `after`."""
        ...

    def unfinished(self) -> Sequence[BatchRecord]:
        """Of every tenant, the oldest first."""
        ...

    def sweep(self) -> int:
        """Forget batches that ended too long ago. Returns how many."""
        ...

    def advance(
        self, batch_id: str, before: Sequence[BatchStatus], after: BatchStatus, **changes: Any
    ) -> bool:
        """Change the status, and fields with it; False when the status is not one of `before`."""
        ...

    def note_progress(self, batch_id: str, completed: int, failed: int, usage: Usage) -> None:
        """Write the counts."""
        ...

    def finish(
        self,
        record: BatchRecord,
        after: BatchStatus,
        results: Sequence[tuple[FileWriter, NewFile] | None],
    ) -> None:
        """End a batch: its output and its error file appear with the new status, or nothing."""
        ...

    def open_input(self, record: BatchRecord) -> BinaryIO | None:
        """The input file, also when its time is over; None when it is not there any more."""
        ...

    def open_journal(self, batch_id: str) -> Journal: ...

    def delete_journal(self, batch_id: str) -> None: ...

    def try_to_own(self) -> bool:
        """Become the one process that runs batches; True too when it is already."""
        ...
