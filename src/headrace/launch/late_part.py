"""LatePart: a part of the program that is opened when it is first needed, by whichever thread.

In: where its opener is, as `module:name`. Out: what the opener made, the same each time. What it
imports is loaded then and not before: SQLAlchemy takes a quarter of a second, which a server that
keeps nothing never spends.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from headrace.core.config import Config


class Closable(Protocol):
    """What can be opened so."""

    @property
    def close(self) -> Callable[[], None]: ...


Part = TypeVar("Part", bound=Closable)


class LatePart(Generic[Part]):
    """`open` it as often as wanted, `close` it with the server."""

    def __init__(self, config: Config, opener: str) -> None:
        self._config, self._opener = config, opener
        self._lock = threading.Lock()
        self._part: Part | None = None

    @property
    def opened(self) -> Part | None:
        """What was opened before, at once."""
        return self._part

    def exists(self) -> bool:
        """Whether there may be something in it: it is open, or there is a database."""
        return self._part is not None or has_database(self._config)

    def open(self) -> Part:
        """Raises: what the opener raises."""
        with self._lock:
            if self._part is None:
                module, _, name = self._opener.partition(":")
                part: Part = getattr(importlib.import_module(module), name)(self._config)
                self._part = part
            return self._part

    def close(self) -> None:
        """Close what was opened. Calling it twice is harmless."""
        with self._lock:
            part, self._part = self._part, None
        if part is not None:
            part.close()


def has_database(config: Config) -> bool:
    """Whether a database is named, or one was made in the home folder."""
    return config.store.database_url is not None or (config.hub.home / "headrace.db").exists()
