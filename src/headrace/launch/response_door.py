"""ResponseDoor: the responses of the database, and a thread that removes those that are too old.

A server that nobody asks for a response opens none. One that has a database from earlier looks
after it all the same: what is too old goes, whether or not anybody asks.
"""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from headrace.core.config import Config
from headrace.core.errors import HeadraceError
from headrace.core.responses import ResponseStore
from headrace.launch.late_part import LatePart

logger = logging.getLogger(__name__)

# After a start, which should not wait for it.
FIRST_SWEEP_S, SWEEP_EVERY_S = 60.0, 3600.0


class OpenStore(ResponseStore, Protocol):
    """A store that can be swept and closed."""

    def sweep(self) -> int: ...

    def close(self) -> None: ...


class ResponseDoor:
    """`open` gives the store, from any thread. `start` and `close` it with the server."""

    def __init__(self, config: Config, first_sweep_s: float = FIRST_SWEEP_S) -> None:
        self.is_wanted = config.store.response_retention_days > 0
        self._part: LatePart[OpenStore] = LatePart(
            config, "headrace.launch.open_responses:OpenResponses"
        )
        self._first_sweep_s = first_sweep_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="headrace-responses", daemon=True)

    def open(self) -> ResponseStore:
        """The store, made if need be. Raises: StoreError, ConfigError."""
        return self._part.open()

    def start(self) -> None:
        """Begin to remove what is too old."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and close the connections. Calling it twice is harmless."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._part.close()

    def _run(self) -> None:
        wait_s = self._first_sweep_s
        while not self._closing.wait(wait_s):
            wait_s = SWEEP_EVERY_S
            try:
                if self._part.exists():
                    self._part.open().sweep()
            except (HeadraceError, ImportError) as error:
                logger.error("Old responses could not be removed: %s", error)
