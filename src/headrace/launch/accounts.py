"""Joins the server to the database of keys and usage, and follows its changes while it runs.

Nothing of the database is imported before there is one: a server without keys starts as if they
did not exist, and closes within seconds of the first one being made.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from headrace.core.backend import ModelInfo
from headrace.core.config import Config
from headrace.core.errors import ConfigError, HeadraceError
from headrace.core.stored_requests import RequestLog
from headrace.core.stores import KeyRing
from headrace.core.telemetry import MetricSink
from headrace.economics.accounts import Accounts
from headrace.economics.budgets import Budgets
from headrace.economics.prices import PriceBook
from headrace.economics.usage_row import Ledger
from headrace.launch.late_part import has_database

logger = logging.getLogger(__name__)

POLL_S = 2.0
# How long other servers on the database spend unseen: adding up a month takes a while.
REFRESH_S = 60.0
# Imports SQLAlchemy, a quarter of a second.
_STORED = "headrace.launch.stored_accounts:StoredAccounts"


class Writer(Ledger, Protocol):
    """A ledger with a thread."""

    def close(self) -> None:
        """Write what waits."""
        ...


class RequestWriter(RequestLog, Protocol):
    """A request log with a thread."""

    def close(self) -> None:
        """Write what waits."""
        ...


class Stored(Protocol):
    """An open database."""

    def ring(self) -> KeyRing: ...

    def open_ledger(self, sink: MetricSink) -> Writer: ...

    def open_prices(self) -> PriceBook: ...

    def open_requests(self, sink: MetricSink) -> RequestWriter: ...

    def stamp(self) -> object:
        """A value that changes with the keys and budgets."""
        ...

    @property
    def budgets(self) -> Budgets | None:
        """Those of the open ledger."""
        ...

    def has_budgets(self) -> bool: ...

    def describe_unpriced(self, served: Sequence[ModelInfo]) -> Sequence[str]: ...

    def renew_budgets(self) -> None: ...

    def refresh_budgets(self) -> None: ...

    def close(self) -> None: ...


class AccountsWatch:
    """Keeps `accounts` as the database says: `open`, then `start` and `close` with the server."""

    def __init__(self, config: Config, poll_s: float = POLL_S) -> None:
        self.accounts = Accounts()
        self._config, self._poll_s = config, poll_s
        self._stored: Stored | None = None
        self._ledger: Writer | None = None
        self._requests: RequestWriter | None = None
        self._sink: MetricSink | None = None
        self._prices: PriceBook | None = None
        self._stamp: object = None
        self._has_budgets = False
        self._were_ended = False
        self._refreshed_at_s = time.monotonic()
        self._is_failing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-accounts", daemon=True)

    def open(self) -> Accounts:
        """Read the keys, and the files with prices.

        Raises: StoreError, ConfigError: a server whose keys cannot be read does not start open.
        """
        if self._has_database():
            self._follow()
            if self._stored is not None and self._config.economics.price_files:
                # A fault in a file of the caller's own is told before a model is loaded.
                self._prices = self._stored.open_prices()
        if self._config.server.require_key and self.accounts.keys.is_open:
            raise ConfigError(
                "server.require_key",
                True,
                "true once there is an API key",
                "Make one with `headrace keys create NAME`, or start without --require-key.",
            )
        if self._config.store.database_url is not None and self.accounts.keys.is_open:
            # A mistyped address is a new database, and that one asks nobody for a key.
            logger.warning(
                "The database of store.database_url has no API keys: whoever reaches this server "
                "may use it. `headrace keys create NAME` makes one; --require-key starts no server "
                "without."
            )
        return self.accounts

    def warn_of_unpriced(self, served: Sequence[ModelInfo]) -> None:
        """Say which of the models here a budget's stop refuses. Raises: StoreError, ConfigError."""
        if self._stored is not None and self._has_budgets:
            for text in self._stored.describe_unpriced(served):
                logger.warning("%s", text)

    def start(self, sink: MetricSink) -> None:
        """Open the ledger where it is wanted, and begin to follow what changes.

        Raises: StoreError: a server whose usage cannot be written does not start.
        """
        self._sink = sink
        self._open_ledger()
        if self._config.store.requests != "off" and self._stored is not None:
            self.accounts.requests = self._requests = self._stored.open_requests(sink)
        self._thread.start()

    def close(self) -> None:
        """Stop following and write the last rows. Calling it twice is harmless."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        for writer in (self._ledger, self._requests):
            if writer is not None:
                writer.close()
        if self._stored is not None:
            self._stored.close()

    def _has_database(self) -> bool:
        store = self._config.store
        return store.ledger == "on" or store.requests != "off" or has_database(self._config)

    def _open_ledger(self) -> None:
        """Raises: StoreError, ConfigError."""
        mode = self._config.store.ledger
        if mode == "off" and self._has_budgets:
            allowed = "auto or on while there is a budget"
            hint = "`headrace budgets list` shows them: what was spent is in the ledger."
            raise ConfigError("store.ledger", mode, allowed, hint)
        is_asked = self._has_budgets or not self.accounts.keys.is_open
        is_wanted = mode == "on" or (mode == "auto" and is_asked)
        if is_wanted and self._ledger is None and self._stored is not None and self._sink:
            # A call is priced from the first row on.
            self.accounts.prices = self._prices or self._stored.open_prices()
            self.accounts.ledger = self._ledger = self._stored.open_ledger(self._sink)
            self.accounts.budgets = self._stored.budgets
            self._refreshed_at_s = time.monotonic()

    def _follow(self) -> None:
        """Take over what the database says. Raises: HeadraceError."""
        if self._stored is None:
            module, _, name = _STORED.partition(":")
            self._stored = getattr(importlib.import_module(module), name)(self._config)
        stamp = self._stored.stamp()
        if stamp != self._stamp:
            self.accounts.keys = self._stored.ring()
            self._has_budgets = self._stored.has_budgets()
            self._stored.renew_budgets()
            self._stamp = stamp
        self._tell_of_ended_keys()
        self._open_ledger()
        if time.monotonic() - self._refreshed_at_s > REFRESH_S:
            self._stored.refresh_budgets()
            self._refreshed_at_s = time.monotonic()

    def _tell_of_ended_keys(self) -> None:
        """Say once that nobody gets in, whether the last key was revoked or its time is over."""
        are_ended = self.accounts.keys.are_all_ended
        if are_ended and not self._were_ended:
            logger.warning(
                "Every API key is revoked or has expired, so this server answers nobody but "
                "probes. It does not open again: `headrace keys create NAME` makes a key."
            )
        self._were_ended = are_ended

    def _run(self) -> None:
        while not self._closing.wait(self._poll_s):
            try:
                if self._stored is not None or self._has_database():
                    self._follow()
                if self._is_failing:
                    logger.warning("The API keys can be read again.")
                self._is_failing = False
            except (HeadraceError, ImportError) as error:
                if not self._is_failing:
                    logger.error("API keys stay as they were, changes are not seen: %s", error)
                self._is_failing = True
