"""Joins the server to the database of keys, and follows its changes while the server runs.

Nothing of the database is imported before there is one: a server without keys starts as if they
did not exist, and closes within seconds of the first one being made.
"""

from __future__ import annotations

import importlib
import logging
import threading
from pathlib import Path
from typing import Protocol

from headrace.core.config import Config
from headrace.core.errors import ConfigError, HeadraceError
from headrace.core.stores import KeyRing
from headrace.economics.accounts import Accounts

logger = logging.getLogger(__name__)

POLL_S = 2.0
# Imports SQLAlchemy, a quarter of a second.
_STORED = "headrace.launch.stored_accounts:StoredAccounts"


class Stored(Protocol):
    """An open database."""

    def ring(self) -> KeyRing: ...

    def stamp(self) -> object:
        """A value that changes with the keys."""
        ...

    def close(self) -> None: ...


class AccountsWatch:
    """Keeps `accounts` as the database says: `open`, then `start` and `close` with the server."""

    def __init__(self, config: Config, poll_s: float = POLL_S) -> None:
        self.accounts = Accounts()
        self._config, self._poll_s = config, poll_s
        self._stored: Stored | None = None
        self._stamp: object = None
        self._is_failing = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-accounts", daemon=True)

    def open(self) -> Accounts:
        """Read the keys.

        Raises: StoreError, ConfigError: a server whose keys cannot be read does not start open.
        """
        if self._has_database():
            self._follow()
        if self._config.server.require_key and self.accounts.keys.is_open:
            raise ConfigError(
                "server.require_key",
                True,
                "false while there is no API key",
                "`headrace keys create NAME` makes one.",
            )
        return self.accounts

    def start(self) -> None:
        """Begin to follow what changes."""
        self._thread.start()

    def close(self) -> None:
        """Stop following. Calling it twice is harmless."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._stored is not None:
            self._stored.close()

    def _has_database(self) -> bool:
        return self._config.store.database_url is not None or _default_file(self._config).exists()

    def _follow(self) -> None:
        """Take over what the database says. Raises: HeadraceError."""
        if self._stored is None:
            module, _, name = _STORED.partition(":")
            self._stored = getattr(importlib.import_module(module), name)(self._config)
        stamp = self._stored.stamp()
        if stamp != self._stamp:
            self.accounts.keys, self._stamp = self._stored.ring(), stamp

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


def _default_file(config: Config) -> Path:
    return config.hub.home / "headrace.db"
