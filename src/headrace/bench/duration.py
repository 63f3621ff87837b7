"""Durations as people write them: `500ms`, `1.5s`, `2min`.

In: text. Out: seconds. The caller names the flag that an error is about.
"""

from __future__ import annotations

import re

from headrace.core.errors import ConfigError

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_SYNTAX = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>[a-z]+)", re.ASCII)
_ALLOWED = f"a number with a unit among {', '.join(_SECONDS)}, such as 500ms or 1.5s"


def parse_seconds(text: str, field: str = "duration") -> float:
    """Read a duration. A number without a unit is refused, for it could be any.

    Units: seconds.
    Raises: ConfigError naming `field`.
    """
    match = _SYNTAX.fullmatch(text.strip())
    factor = _SECONDS.get(match["unit"]) if match else None
    if match is None or factor is None:
        raise ConfigError(field, text, _ALLOWED)
    return float(match["number"]) * factor
