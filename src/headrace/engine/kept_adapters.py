"""KeptAdapters: the adapters that an engine process was told to load, for the next process.

In: messages to the engine and its replies. Out: what a new process is sent before any request, and
what when those are there that run with an adapter which is to leave. A load that engines end on is
tried once more, and failed then. Knows nothing of names.
"""

from __future__ import annotations

from collections.abc import Container
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
    """`is_answered` is about the engine that runs now, `sha256` what any one found. What it found
    `is_leaving` where an unload was asked for since."""

    message: LoadAdapter
    sha256: str | None = None
    num_engines: int = 0
    is_answered: bool = False
    is_leaving: bool = False


class KeptAdapters:
    """One thread at a time."""

    def __init__(self) -> None:
        self._loads: dict[int, _Load] = {}
        self._leaving: dict[str, UnloadAdapter] = {}
        # Of them, those that the engine which runs now was not told.
        self._untold: set[str] = set()
        # What files of leaving adapters are now, where they have changed.
        self._strays: set[str] = set()
        self._failed: list[AdapterLoaded] = []

    @property
    def are_loading(self) -> bool:
        """Whether the engine has not answered to a load."""
        return any(not load.is_answered for load in list(self._loads.values()))

    def send(self, message: LoadAdapter | UnloadAdapter) -> None:
        """Keep what the engine is sent."""
        if isinstance(message, LoadAdapter):
            self._loads[message.load_id] = _Load(message)
        else:
            for load in self._loads.values():
                load.is_leaving = load.is_leaving or load.sha256 == message.sha256
            self._leave(message)

    def take(self, reply: AdapterLoaded | AdapterUnloaded) -> None:
        """Keep what became of it."""
        if isinstance(reply, AdapterUnloaded):
            self._stay(reply.sha256)
            for load_id, load in list(self._loads.items()):
                if load.sha256 == reply.sha256:
                    del self._loads[load_id]
        elif reply.error is not None:
            self._loads.pop(reply.load_id, None)
        elif reply.load_id in self._loads:
            self._take_loaded(self._loads[reply.load_id], reply.sha256)

    def _take_loaded(self, load: _Load, sha256: str) -> None:
        before, load.sha256, load.is_answered = load.sha256, sha256, True
        if before is None:
            self._stay(sha256)
        elif before != sha256 and load.is_leaving:
            self._strays.add(sha256)

    def unloads(self, needed: Container[str]) -> list[UnloadAdapter]:
        """What the engine was not told yet; `needed` are digests of requests that it has not."""
        self._judge_strays()
        told = sorted(sha256 for sha256 in self._untold if sha256 not in needed)
        self._untold.difference_update(told)
        return [self._leaving[sha256] for sha256 in told]

    def start_again(self) -> list[LoadAdapter]:
        """The engine has ended: what the next one is sent first. See `failed` and `unloads`."""
        self._untold = set(self._leaving)
        again: list[LoadAdapter] = []
        for load_id, load in list(self._loads.items()):
            load.is_answered = False
            if load.sha256 is None:
                load.num_engines += 1
            if load.num_engines < MAX_ENGINES:
                again.append(load.message)
                continue
            del self._loads[load_id]
            error = ModelFileError(f"The engine ended while it loaded {load.message.path}.")
            self._failed.append(AdapterLoaded(load_id, error=to_record(error)))
        return again

    def failed(self) -> list[AdapterLoaded]:
        """Loads that failed without an engine since the last call."""
        failed, self._failed = self._failed, []
        return failed

    def _judge_strays(self) -> None:
        """Changed files leave too, unless a load that stays has them: one that was replaced in
        place. That is known when all of those are answered."""
        staying = [load for load in self._loads.values() if not load.is_leaving]
        if self._strays and all(load.is_answered for load in staying):
            for sha256 in self._strays.difference(load.sha256 for load in staying):
                self._leave(UnloadAdapter(sha256))
            self._strays.clear()

    def _leave(self, message: UnloadAdapter) -> None:
        self._leaving[message.sha256] = message
        self._untold.add(message.sha256)

    def _stay(self, sha256: str) -> None:
        """It is not to leave any more, or has left."""
        self._leaving.pop(sha256, None)
        self._untold.discard(sha256)
