"""The digest of a model's files, remembered until one of them changes.

In: the path of a model, and a file to remember in. Out: one SHA-256: of a single file, its own; of
several, that of the lines `sha256sum` prints for them, in the order of their names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from headrace.hub.manifest import sha256_of

_MAX_REMEMBERED = 256
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf")


def model_digest(path: Path, memory: Path, check: Callable[[], None]) -> str:
    """Digest a model; `memory` keeps the result. `check` is called often and may raise to stop.

    Raises: OSError for a file that cannot be read.
    """
    files = _files_of(path)
    stats = [file.stat() for file in files]
    stamp = [
        [file.name, stat.st_size, stat.st_mtime_ns] for file, stat in zip(files, stats, strict=True)
    ]
    known = _read(memory)
    key = str(path.resolve())
    entry = known.get(key)
    if isinstance(entry, dict) and entry.get("files") == stamp:
        return str(entry["sha256"])
    parts = [(sha256_of(file, lambda _: check()), file.name) for file in files]
    digest = parts[0][0]
    if path.is_dir() or len(parts) > 1:
        lines = "".join(f"{part}  {name}\n" for part, name in parts)
        digest = hashlib.sha256(lines.encode()).hexdigest()
    known.pop(key, None)
    _write(memory, known | {key: {"files": stamp, "sha256": digest}})
    return digest


def _files_of(path: Path) -> list[Path]:
    """The files that decide what a model answers."""
    if path.is_dir():
        kinds = (".safetensors", ".json", ".jinja")
        return sorted(file for file in path.iterdir() if file.suffix in kinds and file.is_file())
    part = _PART.fullmatch(path.name)
    if part is None:
        return [path]
    return sorted(path.parent.glob(f"{part[1]}-?????-of-{part[2]}.gguf"))


def _read(memory: Path) -> dict[str, object]:
    """What is remembered; nothing of a file that is gone or damaged."""
    try:
        tree = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _write(memory: Path, known: dict[str, object]) -> None:
    """In one move; where it cannot be written the next start digests again."""
    kept = dict(list(known.items())[-_MAX_REMEMBERED:])
    fresh = memory.with_name(f".{memory.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        fresh.replace(memory)
