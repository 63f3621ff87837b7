"""Lines of data for a task: a JSONL file to Samples.

In: a path. Out: samples in the file's order. Raises: ConfigError that names file and line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from headrace.core.errors import ConfigError
from headrace.planner.workload import Sample

MAX_DATA_BYTES = 256 * 1024**2
_LINE = 'an object a line, such as {"id": "1", "text": "...", "label": "..."}'


def read_samples(path: Path, where: str) -> tuple[Sample, ...]:
    """All lines; empty ones are skipped. `id` names a line, else its number does."""
    samples: list[Sample] = []
    seen: set[str] = set()
    for number, line in enumerate(read_text(path, where).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{where} {path.name}:{number}"
        fields = _read_line(line, place)
        name = fields.get("id", number)
        if isinstance(name, bool) or not isinstance(name, str | int) or str(name) in seen:
            raise ConfigError(f"{place} id", name, "a text or whole number, each once")
        seen.add(str(name))
        samples.append(Sample(str(name), fields))
    if not samples:
        raise ConfigError(where, str(path), _LINE, "The file has no line.")
    return tuple(samples)


def read_text(path: Path, where: str) -> str:
    """A file's text. Raises: ConfigError."""
    try:
        if path.stat().st_size > MAX_DATA_BYTES:
            raise ConfigError(where, str(path), f"at most {MAX_DATA_BYTES} bytes")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(where, str(path), "a readable file", f"{error.strerror}.") from None
    except UnicodeDecodeError as error:
        hint = f"Byte {error.start + 1} is not UTF-8."
        raise ConfigError(where, str(path), "a file in UTF-8", hint) from None


def _read_line(line: str, place: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(place, line[:80], _LINE, f"{error}.") from None
    if not isinstance(found, dict):
        raise ConfigError(place, line[:80], _LINE)
    return found
