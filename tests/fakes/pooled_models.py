"""Models for a ModelPool: engines that say their name and how often they were loaded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from dataclasses import dataclass, field

from fakes.fake_backend import FakeBackend
from headrace.core.activity import ModelActivity
from headrace.core.backend import Health, ModelInfo, PauseMode
from headrace.core.errors import ModelFileError
from headrace.launch.pooled_model import PooledModel

BUDGET = 100


@dataclass
class Engine(FakeBackend):
    """Answers with its model's name and how often that was loaded."""

    is_running: bool = False
    orders: list[str] = field(default_factory=list)

    async def start(self) -> None:
        self.is_running = True

    async def activity(self) -> list[ModelActivity]:
        return [ModelActivity(model=self.info.name, health=self.state, is_current=True)]

    def pause(self, mode: PauseMode, *, clear_cache: bool = True) -> Awaitable[bool]:
        self.state = Health("paused", mode, is_recovering=True)
        self.orders.append(mode)
        return asyncio.sleep(0, True)

    def resume(self) -> Awaitable[bool]:
        self.state = Health("ready")
        self.orders.append("resume")
        return asyncio.sleep(0, True)

    def reset_prefix_cache(self, *, reset_running: bool = False) -> Awaitable[bool]:
        self.orders.append("reset")
        return asyncio.sleep(0, reset_running or self.num_running == 0)

    async def stop(self) -> None:
        assert self.num_running == 0
        self.is_running = False


@dataclass
class Files:
    """What is on disk: models of so many bytes, each of which can be loaded.

    `bases` read no chats.
    """

    sizes: dict[str, int]
    engines: dict[str, list[Engine]] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    faults: set[str] = field(default_factory=set)
    bases: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.gate.set()

    def models(self) -> list[PooledModel]:
        return [
            PooledModel(self._info(name), size, lambda name=name: self.load(name))
            for name, size in self.sizes.items()
        ]

    def _info(self, name: str) -> ModelInfo:
        return ModelInfo(name, 1000, 0, name, has_chat_template=name not in self.bases)

    def load(self, name: str) -> Engine:
        assert self.gate.wait(60)
        if name in self.faults:
            raise ModelFileError(f"{name} is damaged")
        made = self.engines.setdefault(name, [])
        engine = Engine(pieces=(f"{name}{len(made)}", "!"), info=ModelInfo(name, 1000, 0, name))
        made.append(engine)
        in_memory = sum(self.sizes[n] for n, es in self.engines.items() for e in es if e.is_running)
        assert in_memory + self.sizes[name] <= BUDGET
        return engine
