"""Settings in effect as plain data for operators, without anything that opens a door.

In: a Config. Out: nested values that JSON has. Who signs in at an address, and what is asked there,
is left out of it: both may hold a password.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any
from urllib.parse import urlsplit

from headrace.core.config import Config


def show_config(config: Config) -> dict[str, Any]:
    """Every setting by section and name."""
    shown: dict[str, Any] = _show(config)
    return shown


def _show(value: object) -> Any:
    if is_dataclass(value):
        return {field.name: _show(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _show(part) for name, part in value.items()}
    if isinstance(value, str):
        return _show_address(value) if "://" in value else value
    if isinstance(value, Sequence | set | frozenset):
        return [_show(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _show_address(text: str) -> str:
    """An address without user, password and query. What is none is not shown at all."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "(not shown)"
    where = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{where}{'' if port is None else f':{port}'}{parts.path}"
