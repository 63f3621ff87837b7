"""How long to wait before asking a server again: chance over a growing bound, or what it says.

In: which try it was, an answer's headers. Out: seconds. Waits for nothing itself.
Source: full jitter, AWS Architecture Blog, "Exponential Backoff And Jitter" (2015);
RFC 9110, section 10.2.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

FIRST_BOUND_S = 0.25
MOST_BOUND_S = 8.0

Uniform = Callable[[float, float], float]


def backoff_s(num_failures: int, retry_after_s: float | None, uniform: Uniform) -> float:
    """Seconds before the next try after so many failures, 1 or more.

    What the server asks for is the least; some chance on top spreads those that were told the same.
    """
    bound_s = float(min(MOST_BOUND_S, FIRST_BOUND_S * 2.0 ** min(num_failures - 1, 16)))
    if retry_after_s is None:
        return uniform(0.0, bound_s)
    return retry_after_s + uniform(0.0, min(bound_s, 0.1 * retry_after_s + FIRST_BOUND_S))


def read_retry_after(headers: Mapping[str, str], unix_s: float) -> float | None:
    """Seconds that a server asks to wait, by `retry-after-ms` or `retry-after`; None: it does not.

    Units: `unix_s` is now, in seconds of Unix.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - unix_s)
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
