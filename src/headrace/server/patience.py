"""How long a client waits, as the headers of the clients of OpenAI and Anthropic tell it."""

from __future__ import annotations

import math
from collections.abc import Mapping

_HEADERS = ("x-stainless-read-timeout", "x-stainless-timeout")


def patience_of(headers: Mapping[str, str]) -> float | None:
    """Seconds until the client gives up; None when it does not say.

    What is no number says nothing: the client's library wrote it, not its user.
    """
    known = [_seconds(headers[name]) for name in _HEADERS if name in headers]
    return min((seconds for seconds in known if seconds is not None), default=None)


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
