"""Source: a file on this machine or on a share, copied into the store.

In: a path. Out: the bytes in a partial file.
"""

from __future__ import annotations

from pathlib import Path

from headrace.core.config import HubConfig
from headrace.hub.model_source import LocalFile, ModelFile, ReportBytes, SourceFailed

CHUNK_BYTES = 4 * 1024**2


class LocalSource:
    """Copies one file from its beginning: a local copy is too quick to be worth resuming."""

    def __init__(self, spec: LocalFile, config: HubConfig) -> None:
        self._path = spec.path.expanduser()

    @property
    def label(self) -> str:
        return str(self._path)

    def fetch(self, file: ModelFile, partial: Path, report: ReportBytes) -> None:
        try:
            source = self._path.open("rb")
            total_bytes = self._path.stat().st_size
        except OSError as error:
            raise SourceFailed(f"cannot be read: {error.strerror}") from None
        with source, partial.open("wb") as out:
            done_bytes = 0
            while chunk := source.read(CHUNK_BYTES):
                done_bytes += out.write(chunk)
                report(done_bytes, total_bytes)
