"""What a pool has: models that can be loaded, and models that are.

In: a model's facts and a way to load it. Out: records of a ModelPool. Decide nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from headrace.core.activity import Inspectable
from headrace.core.backend import Backend, ModelInfo
from headrace.core.frozen import frozen
from headrace.launch.pool_adapters import AdapterEngine
from headrace.launch.pool_pauses import Pausable


class LoadedModel(Backend, Inspectable, Pausable, AdapterEngine, Protocol):
    """A model in memory."""

    async def start(self) -> None:
        """Begin to take requests."""
        ...

    async def stop(self) -> None:
        """Give the memory back."""
        ...

    def reset_prefix_cache(self, *, reset_running: bool = False) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        ...


@frozen
class PooledModel:
    """A model that can be loaded. `load` blocks and raises HeadraceError."""

    info: ModelInfo
    num_bytes: int
    load: Callable[[], LoadedModel]


@dataclass(eq=False, slots=True)
class Resident:
    """A loaded model and who uses it."""

    name: str
    num_bytes: int
    engine: LoadedModel
    used_at_s: float
    num_running: int = 0
    is_leaving: bool = False
    became_idle: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, num_requests: int = 1) -> Resident:
        """Requests begin. Mutates: self."""
        self.num_running += num_requests
        if self.num_running:
            self.became_idle.clear()
        return self

    def release(self, now_s: float) -> None:
        """A request has ended. Mutates: self."""
        self.num_running -= 1
        self.used_at_s = now_s
        if not self.num_running:
            self.became_idle.set()
