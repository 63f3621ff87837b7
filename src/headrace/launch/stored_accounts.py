"""StoredAccounts: the database behind the accounts. Imported when there is one."""

from __future__ import annotations

from pathlib import Path

from headrace.core.clock import SystemClock
from headrace.core.config import Config
from headrace.core.telemetry import MetricSink
from headrace.economics.ledger import UsageLedger
from headrace.economics.ledger_writer import LedgerWriter
from headrace.economics.price_files import open_price_book
from headrace.economics.prices import PriceBook
from headrace.economics.request_writer import RequestWriter
from headrace.economics.spill_file import SpillFile
from headrace.store.database import Database, default_url
from headrace.store.key_ring import StoredKeys
from headrace.store.keys import KeyStore
from headrace.store.requests import RequestStore


class StoredAccounts:
    """Opens the database and makes what is missing in it."""

    def __init__(self, config: Config) -> None:
        """Raises: StoreError, ConfigError."""
        self._config = config
        self._database = Database(config.store.database_url or default_url(config.hub.home))
        self._database.create_file()
        self._keys = KeyStore(self._database, SystemClock())

    def ring(self) -> StoredKeys:
        """The keys as they are now. Raises: StoreError."""
        return self._keys.ring()

    def stamp(self) -> tuple[int, ...]:
        """Numbers that change whenever a key does. Raises: StoreError."""
        return self._keys.stamp()

    def open_ledger(self, sink: MetricSink) -> LedgerWriter:
        """Start writing usage. Raises: StoreError."""
        store = self._config.store
        spill = SpillFile(self._config.hub.home / "ledger", store.max_spill_bytes)
        ledger = UsageLedger(self._database)
        writer = LedgerWriter(ledger, spill, sink, store.max_waiting_rows)
        writer.start()
        return writer

    def open_prices(self) -> PriceBook:
        """The prices of the settings. Raises: ConfigError."""
        economics = self._config.economics
        files = [Path(file).expanduser() for file in economics.price_files]
        return open_price_book(files, economics.stale_after_days)

    def open_requests(self, sink: MetricSink) -> RequestWriter:
        """Start keeping calls. Raises: StoreError."""
        store = self._config.store
        table = RequestStore(
            self._database,
            SystemClock(),
            store.request_retention_days,
            redacts=store.requests != "full",
        )
        writer = RequestWriter(table, sink)
        writer.start()
        return writer

    def close(self) -> None:
        """Close the connections."""
        self._database.close()
