"""What the store remembers of a pulled model: its name, its files and how they were when checked.

In: files whose digests are right. Out: `model.json` beside them, and later the answer whether they
are still those files: size and modification time first, the digest only when the time differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from headrace.core.errors import DigestMismatch, ModelFileError
from headrace.core.frozen import frozen
from headrace.hub.model_source import is_file_name

MANIFEST_NAME = "model.json"
MANIFEST_VERSION = 1
CHUNK_BYTES = 1024**2
_SHA256 = re.compile(r"[0-9a-f]{64}")


@frozen(kw_only=True)
class StoredFile:
    """One file as it was when its digest was checked."""

    name: str
    size_bytes: int
    sha256: str
    mtime_ns: int


@frozen(kw_only=True)
class Manifest:
    """A model in the store: a folder with config.json, or a GGUF file, its first part first."""

    name: str
    is_folder: bool
    source: str
    files: tuple[StoredFile, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a folder; None when there is none.

    Raises: ModelFileError when it cannot be understood.
    """
    path = folder / MANIFEST_NAME
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["version"] != MANIFEST_VERSION:
            raise ValueError(f"version {tree['version']}")
        files = tuple(_stored_file(file) for file in tree["files"])
        if not files:
            raise ValueError("no files")
        return Manifest(
            name=str(tree["name"]),
            is_folder=bool(tree["is_folder"]),
            source=str(tree["source"]),
            files=files,
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is damaged ({error}). Remove the folder and pull the model again."
        ) from None


def _stored_file(tree: Mapping[str, object]) -> StoredFile:
    """Raises: KeyError, TypeError, ValueError for what `write_manifest` does not write."""
    name, sha256 = tree["name"], tree["sha256"]
    size_bytes, mtime_ns = tree["size_bytes"], tree["mtime_ns"]
    if not isinstance(name, str) or not is_file_name(name):
        raise ValueError(f"a file is named {name!r}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"sha256 of {name} is {sha256!r}")
    # bool is an int too.
    if type(size_bytes) is not int or size_bytes < 0 or type(mtime_ns) is not int:
        raise ValueError(f"size or time of {name} is {size_bytes!r}, {mtime_ns!r}")
    return StoredFile(name=name, size_bytes=size_bytes, sha256=sha256, mtime_ns=mtime_ns)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it in one move: a model is in the store from the moment its manifest is."""
    fresh = folder / (MANIFEST_NAME + ".new")
    text = json.dumps({"version": MANIFEST_VERSION, **asdict(manifest)}, indent=2)
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / MANIFEST_NAME)


def check_files(folder: Path, manifest: Manifest) -> Manifest:
    """See whether the files are still those that were checked; hash only what was touched.

    Returns the manifest with the new times of files that were touched and are unchanged.
    Raises: ModelFileError for a file that is gone or has another size, DigestMismatch.
    """
    checked = []
    for file in manifest.files:
        path = folder / file.name
        try:
            stat = path.stat()
        except OSError as error:
            raise ModelFileError(
                f"{path} cannot be read ({error.strerror}). Pull {manifest.name!r} again."
            ) from None
        if stat.st_size != file.size_bytes:
            raise ModelFileError(
                f"{path} has {stat.st_size} bytes, expected {file.size_bytes}. "
                f"Remove it (headrace rm {manifest.name}) and pull it again."
            )
        if stat.st_mtime_ns != file.mtime_ns:
            digest = sha256_of(path)
            if digest != file.sha256:
                raise DigestMismatch(str(path), file.sha256, digest)
        checked.append(replace(file, mtime_ns=stat.st_mtime_ns))
    return replace(manifest, files=tuple(checked))


def sha256_of(path: Path, report: Callable[[int], None] | None = None) -> str:
    """Hash a file; `report` gets the bytes hashed as it goes."""
    digest = hashlib.sha256()
    num_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
            if report is not None:
                report(num_bytes)
    return digest.hexdigest()
