"""Bytes, seconds and counts as people write and read them.

In: text such as `2GiB` or a number. Out: whole bytes, or short text. Knows no setting; the caller
names the field that an error is about.
"""

from __future__ import annotations

import re
from decimal import Decimal

from headrace.core.errors import ConfigError

_FACTORS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "k": 1024,
    "m": 1024**2,
    "g": 1024**3,
    "t": 1024**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
_BYTES = re.compile(r"(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>[a-z]*)", re.IGNORECASE | re.ASCII)
_ALLOWED = "a whole number of bytes, or a number with a unit such as 2GiB, 1.5 GiB or 500MB"
_MAX_BYTES = 2**63 - 1


def parse_bytes(value: str | int, field: str = "size") -> int:
    """Read `2GiB`, `1.5 GiB`, `500MB` or a plain count of bytes.

    Units: KB MB GB TB are powers of 1000; KiB MiB GiB TiB and K M G T are powers of 1024.
    Raises: ConfigError naming `field`.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigError(field, value, _ALLOWED)
    if isinstance(value, int):
        num_bytes = value
    else:
        match = _BYTES.fullmatch(value.strip())
        factor = _FACTORS.get(match["unit"].lower()) if match else None
        if match is None or factor is None:
            raise ConfigError(field, value, _ALLOWED)
        if "." in match["number"] and factor == 1:
            raise ConfigError(
                field, value, _ALLOWED, "Bytes cannot be split; add a unit such as GiB."
            )
        num_bytes = _scale(match["number"], factor)
    if not 0 <= num_bytes <= _MAX_BYTES:
        raise ConfigError(field, value, _ALLOWED, "It must be 0 or more and fit in 63 bits.")
    return num_bytes


def _scale(number: str, factor: int) -> int:
    """Multiply decimal text exactly, rounding down."""
    whole, _, fraction = number.partition(".")
    scaled = int(whole or "0") * factor
    return scaled + (int(fraction) * factor // 10 ** len(fraction) if fraction else 0)


def format_bytes(num_bytes: int) -> str:
    """Write bytes with a binary unit and three digits: `468.6 MiB`."""
    size, units = float(abs(num_bytes)), ("B", "KiB", "MiB", "GiB", "TiB")
    index = 0
    while size >= 1023.95 and index < len(units) - 1:
        size, index = size / 1024, index + 1
    sign = "-" if num_bytes < 0 else ""
    return f"{sign}{size:.0f} B" if index == 0 else f"{sign}{size:.1f} {units[index]}"


def format_seconds(seconds: float) -> str:
    """Write a duration: `85 ms`, `3.2 s`, `4 min 05 s`, `2 h 10 min`."""
    if seconds < 0:
        return f"-{format_seconds(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_count(count: int) -> str:
    """Write a count with a decimal suffix: `950`, `32.8K`, `1.5B`."""
    size, suffixes = float(abs(count)), ("", "K", "M", "B", "T")
    index = 0
    while size >= 999.95 and index < len(suffixes) - 1:
        size, index = size / 1000, index + 1
    sign = "-" if count < 0 else ""
    text = f"{size:.1f}".removesuffix(".0")
    return f"{sign}{text}{suffixes[index]}"


def format_number(value: float, num_digits: int = 3) -> str:
    """Write a number with so many digits, all those before the point, and no exponent: `1334`."""
    if abs(value) >= 10**num_digits - 0.5:
        return f"{value:.0f}"
    return format(Decimal(f"{value:.{num_digits}g}"), "f")
