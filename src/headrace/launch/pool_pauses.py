"""PoolPauses: which models of a pool are paused, whether or not they are in memory.

In: names, the engines that are there. Out: orders to them. An engine that is loaded for a paused
model is paused before it gets a request. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from typing import Protocol

from headrace.core.backend import PauseMode


class Pausable(Protocol):
    """An engine. Orders are sent by the call, their ends are awaited."""

    def pause(self, mode: PauseMode, *, clear_cache: bool = True) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        ...

    def resume(self) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        ...


class PoolPauses:
    """Names of paused models."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def are_paused(self, names: Collection[str]) -> bool:
        """Whether each of them is."""
        return self._names.issuperset(names)

    async def pause(
        self,
        names: Collection[str],
        engines: Sequence[Pausable],
        mode: PauseMode,
        clear_cache: bool,
    ) -> bool:
        """Pause models and the engines they have now. Raises: BackendError."""
        self._names.update(names)
        orders = [engine.pause(mode, clear_cache=clear_cache) for engine in engines]
        return all(await asyncio.gather(*orders)) and self.are_paused(names)

    async def resume(self, names: Collection[str], engines: Sequence[Pausable]) -> None:
        """Go on. Raises: BackendError."""
        self._names.difference_update(names)
        await asyncio.gather(*[engine.resume() for engine in engines])
