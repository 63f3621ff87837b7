"""StorageDoor: files and batches of callers, opened when somebody first asks for them.

Nothing of the database is imported before that: a server that keeps nothing starts as if there were
no files and batches.
"""

from __future__ import annotations

import importlib
import threading

from headrace.core.config import Config
from headrace.server.services import Storage

# Imports SQLAlchemy, a quarter of a second.
_STORED = "headrace.launch.stored_files:open_stored_files"


class LazyStorage:
    """See server.services.StorageDoor."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._storage: Storage | None = None

    def exists(self) -> bool:
        """See server.services.StorageDoor."""
        is_given = self._config.store.database_url is not None
        return (
            self._storage is not None
            or is_given
            or (self._config.hub.home / "headrace.db").exists()
        )

    @property
    def opened(self) -> Storage | None:
        """See server.services.StorageDoor."""
        return self._storage

    def open(self) -> Storage:
        """See server.services.StorageDoor."""
        with self._lock:
            if self._storage is None:
                module, _, name = _STORED.partition(":")
                opened: Storage = getattr(importlib.import_module(module), name)(self._config)
                self._storage = opened
            return self._storage

    def close(self) -> None:
        """Close what was opened. Calling it twice is harmless."""
        with self._lock:
            storage, self._storage = self._storage, None
        if storage is not None:
            storage.close()
