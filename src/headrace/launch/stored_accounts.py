"""StoredAccounts: the database behind the accounts. Imported when there is one."""

from __future__ import annotations

from headrace.core.clock import SystemClock
from headrace.core.config import Config
from headrace.store.database import Database, default_url
from headrace.store.key_ring import StoredKeys
from headrace.store.keys import KeyStore


class StoredAccounts:
    """Opens the database and makes what is missing in it."""

    def __init__(self, config: Config) -> None:
        """Raises: StoreError, ConfigError."""
        self._database = Database(config.store.database_url or default_url(config.hub.home))
        self._database.create_file()
        self._keys = KeyStore(self._database, SystemClock())

    def ring(self) -> StoredKeys:
        """The keys as they are now. Raises: StoreError."""
        return self._keys.ring()

    def stamp(self) -> tuple[int, int]:
        """Numbers that change whenever a key does. Raises: StoreError."""
        return self._keys.stamp()

    def close(self) -> None:
        """Close the connections."""
        self._database.close()
