"""The end of a batch: its output file and its error file, made from the journal. Blocks.

In: a batch, how it ends, the journal. Out: two files (those that would be empty are left out) and
the last status, in one transaction, so that doing it again after a crash is harmless.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO

from headrace.core.batches import BatchRecord, BatchStatus
from headrace.core.files import FileStore, FileWriter, NewFile
from headrace.server.batch_journal import Progress, read_entries
from headrace.server.batch_lines import (
    CHECKED,
    encode_output,
    parse_line,
    read_lines,
)
from headrace.server.files import output_file
from headrace.server.services import Storage

_UNANSWERED: dict[BatchStatus, tuple[str, str]] = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window ended.",
    ),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was executed."),
}


class _Results:
    """A file that is made with its first line."""

    def __init__(self, files: FileStore) -> None:
        self._files = files
        self.writer: FileWriter | None = None

    def add(self, line: bytes) -> None:
        if self.writer is None:
            self.writer = self._files.new_writer()
        self.writer.write(line + b"\n")

    def named(self, record: BatchRecord, kind: str) -> tuple[FileWriter, NewFile] | None:
        if self.writer is None:
            return None
        name = f"{record.id}_{kind}.jsonl"
        return self.writer, output_file(record.tenant, name, record.output_expires_after_s)

    def discard(self) -> None:
        if self.writer is not None:
            self.writer.discard()


def finish_batch(
    record: BatchRecord,
    after: BatchStatus,
    progress: Progress,
    storage: Storage,
) -> None:
    """Write the results and end the batch. Raises: StoreError, and then nothing has changed."""
    output, error = _Results(storage.files), _Results(storage.files)
    try:
        with closing(storage.batches.open_journal(record.id)) as journal:
            for entry in filter(lambda entry: entry.is_finished, read_entries(journal)):
                (error if entry.is_error else output).add(bytes(entry.output))
        for line in _unanswered(record, after, progress, storage):
            error.add(line)
        usage, num_completed = progress.usage, progress.num_completed
        storage.batches.note_progress(record.id, num_completed, progress.num_failed, usage)
        storage.batches.finish(
            record, after, [output.named(record, "output"), error.named(record, "error")]
        )
    finally:
        output.discard()
        error.discard()


def _unanswered(
    record: BatchRecord,
    after: BatchStatus,
    progress: Progress,
    storage: Storage,
) -> Iterator[bytes]:
    """An error for every line that was never answered, where that is how the batch ends."""
    if after not in _UNANSWERED or len(progress.done) >= record.num_total:
        return
    file = storage.batches.open_input(record)
    if file is None:
        return
    code, message = _UNANSWERED[after]
    with closing(file):
        for number, custom_id in _read_ids(file, record):
            if number not in progress.done:
                yield encode_output(custom_id, None, {"code": code, "message": message})


def _read_ids(file: BinaryIO, record: BatchRecord) -> Iterator[tuple[int, str]]:
    for number, data in read_lines(file, CHECKED.max_bytes):
        yield number, parse_line(number, data, record.endpoint, CHECKED).custom_id
