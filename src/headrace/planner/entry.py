"""Entry: a map of a workload file, read key by key, with errors that name the place.

In: decoded YAML whose fractions are Decimals. Out: plain values of the asked types. An unknown key
is an error that names its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from headrace.core.errors import ConfigError, InWords
from headrace.core.near_names import did_you_mean


class Entry:
    """A map with known keys. Raises everywhere: ConfigError."""

    def __init__(self, tree: Any, where: str, known: tuple[str, ...]) -> None:
        if not isinstance(tree, Mapping):
            given = InWords("empty") if tree is None else tree
            raise ConfigError(where, given, f"a map with {', '.join(known)}")
        self.where = where
        self._tree = tree
        for key in tree:
            if key not in known:
                hint = did_you_mean(key, known, most=2)
                raise ConfigError(f"{where}.{key}", InWords("no key"), ", ".join(known), hint)

    def __contains__(self, key: str) -> bool:
        return self._tree.get(key) is not None

    def value(self, key: str) -> Any:
        """As it is; None where it is missing."""
        return self._tree.get(key)

    def place(self, key: str) -> str:
        """How errors call it."""
        return f"{self.where}.{key}"

    def refuse(self, key: str, allowed: str, hint: str = "") -> ConfigError:
        """An error about a key."""
        value = self.value(key)
        if value is None:
            value = InWords("empty" if key in self._tree else "missing")
        return ConfigError(self.place(key), value, allowed, hint)

    def text(self, key: str, default: str | None = None) -> str:
        """A text that is not empty; without a default it must be there."""
        value = self._tree.get(key, default)
        if not isinstance(value, str) or (not value and value != default):
            raise self.refuse(key, "a text")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        """One of some words."""
        value = self._tree.get(key, default)
        if value not in allowed:
            hint = did_you_mean(value, allowed, most=1)
            raise self.refuse(key, f"one of {', '.join(allowed)}", hint)
        return str(value)

    def whole(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """A whole number within bounds."""
        value = self._tree.get(key, default)
        if type(value) is not int or not least <= value <= most:
            raise self.refuse(key, f"a whole number from {least} to {most}")
        return value

    def number(
        self, key: str, least: float, most: float, default: Decimal | int | None = None
    ) -> Decimal:
        """An exact number within bounds."""
        value = self._tree.get(key, default)
        is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            raise self.refuse(key, f"a number from {least:g} to {most:g}")
        return Decimal(value)

    def optional(self, key: str, least: float, most: float) -> float | None:
        """The same, where it is there."""
        return float(self.number(key, least, most)) if key in self else None

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; none where it is missing."""
        value = self._tree.get(key) or []
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            raise self.refuse(key, "a list of texts")
        return tuple(value)

    def parts(self, key: str, is_needed: bool = True) -> Mapping[str, Any]:
        """A map from names to maps."""
        value = self._tree.get(key)
        if value is None and not is_needed:
            return {}
        if not isinstance(value, Mapping) or not value:
            raise self.refuse(key, "a map with at least one name")
        for name in value:
            if not isinstance(name, str) or not name:
                raise ConfigError(self.place(key), name, "names that are texts")
        return value
