"""Opens the database of responses when the first one is kept, and removes those that are too old.

A server that nobody asks for a response never imports what reads databases. One that has a database
from earlier looks after it all the same: what is too old goes, whether or not anybody asks.
"""

from __future__ import annotations

import importlib
import logging
import threading
from typing import Protocol

from headrace.core.config import Config
from headrace.core.errors import HeadraceError
from headrace.core.responses import ResponseStore

logger = logging.getLogger(__name__)

# After a start, which should not wait for it.
FIRST_SWEEP_S, SWEEP_EVERY_S = 60.0, 3600.0
# Imports SQLAlchemy, a quarter of a second.
_STORED = "headrace.launch.open_responses:OpenResponses"


class OpenStore(ResponseStore, Protocol):
    """A store that can be swept and closed."""

    def sweep(self) -> int: ...

    def close(self) -> None: ...


class ResponseDoor:
    """`open` gives the store, from any thread. `start` and `close` it with the server."""

    def __init__(self, config: Config, first_sweep_s: float = FIRST_SWEEP_S) -> None:
        self._config, self._first_sweep_s = config, first_sweep_s
        self._store: OpenStore | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-responses", daemon=True)

    @property
    def is_wanted(self) -> bool:
        return self._config.store.response_retention_days > 0

    def open(self) -> ResponseStore:
        """The store, made if need be. Raises: StoreError, ConfigError."""
        return self._open()

    def start(self) -> None:
        """Begin to remove what is too old."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and close the connections. Calling it twice is harmless."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        with self._lock:
            if self._store is not None:
                self._store.close()

    def _open(self) -> OpenStore:
        with self._lock:
            if self._store is None:
                module, _, name = _STORED.partition(":")
                self._store = getattr(importlib.import_module(module), name)(self._config)
            return self._store

    def _run(self) -> None:
        wait_s = self._first_sweep_s
        while not self._closing.wait(wait_s):
            wait_s = SWEEP_EVERY_S
            try:
                if self._store is not None or self._has_database():
                    self._open().sweep()
            except (HeadraceError, ImportError) as error:
                logger.error("Old responses could not be removed: %s", error)

    def _has_database(self) -> bool:
        url, home = self._config.store.database_url, self._config.hub.home
        return url is not None or (home / "headrace.db").exists()
