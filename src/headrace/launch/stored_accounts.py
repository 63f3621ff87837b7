"""StoredAccounts: the database behind the accounts. Imported when there is one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime

from headrace.core.backend import ModelInfo
from headrace.core.clock import SystemClock
from headrace.core.config import Config
from headrace.core.telemetry import MetricSink
from headrace.economics.budgets import Budgets
from headrace.economics.ledger import UsageLedger
from headrace.economics.ledger_writer import LedgerWriter
from headrace.economics.prices import PriceBook
from headrace.economics.request_writer import RequestWriter
from headrace.economics.spill_file import SpillFile
from headrace.launch.prices import read_prices
from headrace.launch.unpriced import describe_served
from headrace.store.budgets import BudgetStore
from headrace.store.database import open_database
from headrace.store.key_ring import StoredKeys
from headrace.store.keys import KeyStore
from headrace.store.requests import RequestStore


class StoredAccounts:
    """Opens the database and makes what is missing in it."""

    def __init__(self, config: Config) -> None:
        """Raises: StoreError, ConfigError."""
        self._config = config
        self._database = open_database(config.store.database_url, config.hub.home)
        self._database.create_file()
        self._keys = KeyStore(self._database, SystemClock())
        self._budget_store = BudgetStore(self._database, SystemClock())
        self.budgets: Budgets | None = None

    def ring(self) -> StoredKeys:
        """The keys as they are now. Raises: StoreError."""
        return self._keys.ring()

    def has_budgets(self) -> bool:
        """Whether one is set. Raises: StoreError."""
        return bool(self._budget_store.list())

    def describe_unpriced(self, served: Sequence[ModelInfo]) -> Sequence[str]:
        """Whose every call a budget's stop refuses. Raises: StoreError, ConfigError."""
        budgets = self._budget_store.list()
        return tuple(describe_served(budgets, served, self._config, self.open_prices()))

    def stamp(self) -> tuple[object, ...]:
        """Values that change whenever a key or a budget does. Raises: StoreError."""
        return self._keys.stamp(), self._budget_store.stamp()

    def open_ledger(self, sink: MetricSink) -> LedgerWriter:
        """Start writing usage, and keep the budgets that it is charged to. Raises: StoreError."""
        store = self._config.store
        spill = SpillFile(self._config.hub.home / "ledger", store.max_spill_bytes)
        ledger = UsageLedger(self._database)
        budgets = Budgets(ledger.spent_since, sink, lambda: writer.has_room)
        writer = LedgerWriter(ledger, spill, sink, store.max_waiting_rows, budgets.note_written)
        # What an earlier process could not write is spent too.
        writer.recover()
        budgets.replace(self._budget_store.list(), _today())
        self.budgets = budgets
        writer.start()
        return writer

    def renew_budgets(self) -> None:
        """Take over what was set and removed. Raises: StoreError."""
        if self.budgets is not None:
            self.budgets.replace(self._budget_store.list(), _today())

    def refresh_budgets(self) -> None:
        """Take over what other servers have spent. Raises: StoreError."""
        if self.budgets is not None:
            self.budgets.refresh(_today())

    def open_prices(self) -> PriceBook:
        """The prices of the settings. Raises: ConfigError."""
        return read_prices(self._config)

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


def _today() -> date:
    return datetime.fromtimestamp(SystemClock().unix_s(), UTC).date()
