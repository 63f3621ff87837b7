"""KeptAdapters: the adapters that an engine process was told to load, for the next process.

In: messages to the engine and its replies. Out: what a new process is sent before any request. A
load that engines end on is tried once more, and failed then. Knows nothing of names.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.core.errors import ModelFileError
from headrace.engine.error_record import to_record
from headrace.engine.messages import (
    AdapterLoaded,
    AdapterUnloaded,
    LoadAdapter,
    UnloadAdapter,
)

MAX_ENGINES = 2


@dataclass(slots=True)
class _Load:
    message: LoadAdapter
    sha256: str | None = None
    num_engines: int = 0


class KeptAdapters:
    """One thread at a time."""

    def __init__(self) -> None:
        self._loads: dict[int, _Load] = {}
        self._leaving: dict[str, UnloadAdapter] = {}
        self._failed: list[AdapterLoaded] = []

    def send(self, message: LoadAdapter | UnloadAdapter) -> None:
        """Keep what the engine is sent."""
        if isinstance(message, LoadAdapter):
            self._loads[message.load_id] = _Load(message)
        else:
            self._leaving[message.sha256] = message

    def take(self, reply: AdapterLoaded | AdapterUnloaded) -> None:
        """Keep what became of it."""
        if isinstance(reply, AdapterUnloaded):
            self._leaving.pop(reply.sha256, None)
            for load_id, load in list(self._loads.items()):
                if load.sha256 == reply.sha256:
                    del self._loads[load_id]
        elif reply.error is not None:
            self._loads.pop(reply.load_id, None)
        elif reply.load_id in self._loads:
            self._loads[reply.load_id].sha256 = reply.sha256
            self._leaving.pop(reply.sha256, None)

    def start_again(self) -> list[LoadAdapter | UnloadAdapter]:
        """The engine has ended: what the next one is sent. See `failed`."""
        again: list[LoadAdapter | UnloadAdapter] = []
        for load_id, load in list(self._loads.items()):
            if load.sha256 is None:
                load.num_engines += 1
            if load.num_engines < MAX_ENGINES:
                again.append(load.message)
                continue
            del self._loads[load_id]
            error = ModelFileError(f"The engine ended while it loaded {load.message.path}.")
            self._failed.append(AdapterLoaded(load_id, error=to_record(error)))
        return [*again, *self._leaving.values()]

    def failed(self) -> list[AdapterLoaded]:
        """Loads that failed without an engine since the last call."""
        failed, self._failed = self._failed, []
        return failed
