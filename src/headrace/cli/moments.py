"""A moment to come, as a person writes it: a time from now, or a day of UTC.

In: text such as `30d` or `2027-01-31`, the time now. Out: seconds of Unix, and moments as lists
show them.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from headrace.core.errors import ConfigError

_UNITS_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_FROM_NOW = re.compile(r"(?P<number>[1-9][0-9]{0,5})(?P<unit>[mhdw])", re.ASCII)
_ALLOWED = "a time from now such as 12h, 30d or 8w, or a day or time to come such as 2027-01-31"


def read_moment(flag: str, text: str, now_s: float) -> float:
    """Read a moment after now. A day begins at 00:00; without a zone it is UTC's. Units: s.

    Raises: ConfigError.
    """
    written = text.strip()
    match = _FROM_NOW.fullmatch(written.lower())
    if match is not None:
        return now_s + int(match["number"]) * _UNITS_S[match["unit"]]
    try:
        moment = datetime.fromisoformat(written)
        zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        unix_s = zoned.timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(flag, text, _ALLOWED) from None
    if unix_s <= now_s:
        raise ConfigError(flag, text, _ALLOWED, f"It is {show_moment(now_s)} now.")
    return unix_s


def show_moment(unix_s: float) -> str:
    """The minute of a moment."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s))
