"""OpenResponses: the database behind stored responses. Imported when there is one."""

from __future__ import annotations

from headrace.core.clock import SystemClock
from headrace.core.config import Config
from headrace.store.database import open_database
from headrace.store.responses import StoredResponses


class OpenResponses(StoredResponses):
    """Opens the database and makes what is missing in it."""

    def __init__(self, config: Config) -> None:
        """Raises: StoreError, ConfigError."""
        database = open_database(config.store.database_url, config.hub.home)
        database.create_file()
        store = config.store
        days, most = store.response_retention_days, store.max_tenant_responses
        super().__init__(database, SystemClock(), days, most)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()
