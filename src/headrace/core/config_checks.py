"""What a value of a setting may be: raises a ConfigError that names the setting, or lets it pass.

In: the name as files and flags have it, the value. Knows no record.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from headrace.core.errors import ConfigError
from headrace.core.near_names import did_you_mean
from headrace.core.units import format_bytes


def check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    """One of a few values. Raises: ConfigError."""
    if isinstance(value, bool) or value not in allowed:
        shown = ", ".join("none" if choice is None else str(choice) for choice in allowed)
        raise ConfigError(name, value, f"one of {shown}")


def check_known(name: str, value: str, known: Collection[str]) -> None:
    """One of the names that there are. Raises: ConfigError that tells near ones."""
    if value not in known:
        allowed = f"one of {', '.join(known)}" if known else "nothing: there is none"
        raise ConfigError(name, value, allowed, did_you_mean(value, known))


def check_integer(name: str, value: object, low: int, high: int, is_optional: bool = False) -> None:
    """A whole number within bounds; `is_optional` lets None be. Raises: ConfigError."""
    if is_optional and value is None:
        return
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(name, value, f"a whole number from {low} to {high}")


def check_bytes(name: str, value: object, low: int, high: int) -> None:
    """A number of bytes within bounds. Raises: ConfigError."""
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(
            name,
            value,
            f"bytes from {format_bytes(low)} to {format_bytes(high)}, a number or with a unit",
        )


def check_number(name: str, value: object, low: float, high: float) -> None:
    """A number within bounds. Raises: ConfigError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        raise ConfigError(name, value, f"a number from {low:g} to {high:.15g}")


def check_boolean(name: str, value: object) -> None:
    """Raises: ConfigError for what is neither true nor false."""
    if not isinstance(value, bool):
        raise ConfigError(name, value, "true or false")
