"""ModelPool: several models behind one Backend, within one budget of memory.

In: models, each with the bytes it takes and a way to load it. Out: requests at the engine of their
model, which is loaded when it is asked for; engines that were idle the longest make room. A model
can be loaded anew beside its requests. Belongs to one event loop. Knows neither files nor
processes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from headrace.core.activity import Inspectable, ModelActivity
from headrace.core.backend import Backend, Health, ModelInfo, ModelText, TokenizerInfo
from headrace.core.clock import Clock
from headrace.core.errors import (
    BackendError,
    CapacityError,
    ConfigError,
    HeadraceError,
    InvalidParameter,
    ModelNotFound,
)
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.units import format_bytes
from headrace.launch.pool_activity import PoolActivity

logger = logging.getLogger(__name__)


class LoadedModel(Backend, Inspectable, Protocol):
    """A model in memory."""

    async def start(self) -> None:
        """Begin to take requests."""
        ...

    async def stop(self) -> None:
        """Give the memory back."""
        ...

    async def load_adapter(
        self, name: str, path: str, *, base: str | None = None, is_replacing: bool = False
    ) -> ModelInfo:
        """See core.backend.AdapterControl."""
        ...

    async def unload_adapter(self, name: str) -> None:
        """See core.backend.AdapterControl."""
        ...


@dataclass(frozen=True, slots=True)
class PooledModel:
    """A model that can be loaded. `load` blocks and raises HeadraceError."""

    info: ModelInfo
    num_bytes: int
    load: Callable[[], LoadedModel]


@dataclass(eq=False, slots=True)
class _Resident:
    """A loaded model and who uses it."""

    name: str
    num_bytes: int
    engine: LoadedModel
    used_at_s: float
    num_running: int = 0
    is_leaving: bool = False
    became_idle: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, num_requests: int = 1) -> _Resident:
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


@dataclass(frozen=True, slots=True)
class _Adapter:
    """An adapter that is served, in memory whenever its model is."""

    path: str
    info: ModelInfo

    @property
    def base(self) -> str:
        return self.info.parent or ""


@dataclass(eq=False, slots=True)
class _Load:
    """A load, and how many wait for it."""

    task: asyncio.Task[_Resident]
    num_waiting: int = 0


class ModelPool:
    """A Backend. `start` loads the first model; `stop` unloads all."""

    def __init__(
        self,
        models: Sequence[PooledModel],
        budget_bytes: int,
        clock: Clock,
        idle_unload_s: float | None = None,
        first: LoadedModel | None = None,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        """`first` is the first model, where that is loaded already; `start` starts it, and loads
        `adapters` over it.

        Raises: ConfigError for a model that does not fit alone.
        """
        for model in models:
            if model.num_bytes > budget_bytes:
                least = f"at least {format_bytes(model.num_bytes)}, for {model.info.name} alone"
                raise ConfigError("engine.memory", format_bytes(budget_bytes), least)
        self._models = {model.info.name: model for model in models}
        self._budget_bytes, self._clock, self._idle_unload_s = budget_bytes, clock, idle_unload_s
        # Who gets new requests; those that end and give their memory back; loads that run.
        self._residents: dict[str, _Resident] = {}
        self._departures: dict[_Resident, asyncio.Task[None]] = {}
        self._loads: dict[str, _Load] = {}
        # Memory is made and taken by one load at a time.
        self._memory = asyncio.Lock()
        self._sweep: asyncio.Task[None] | None = None
        self._is_over = False
        self._first = first
        self._first_adapters = dict(adapters or {})
        self._adapters: dict[str, _Adapter] = {}
        self._activity = PoolActivity(clock)

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend. Loaded or not; what is loaded knows best what it is."""
        residents = self._residents
        models = [
            residents[name].engine.models()[0] if name in residents else model.info
            for name, model in self._models.items()
        ]
        return [*models, *(adapter.info for adapter in self._adapters.values())]

    def text(self, model: str) -> ModelText:
        """See core.backend.Backend."""
        base = self._base_of(model)
        self._find(base)
        resident = self._residents.get(base)
        return _TextOnDemand(self, model) if resident is None else resident.engine.text(model)

    def loaded(self) -> list[str]:
        """Names of the models in memory, the longest unused first."""
        residents = sorted(self._residents.values(), key=lambda resident: resident.used_at_s)
        return [resident.name for resident in residents]

    def health(self) -> Health:
        """The best of the loaded engines: one that restarts does not close the others."""
        found = {r.engine.health().status: r.engine.health() for r in self._residents.values()}
        if self._is_over:
            return Health("dead", "The server was stopped.")
        return found.get("ready") or next(iter(found.values()), Health("ready"))

    async def start(self) -> None:
        """Load the first model, so that what is wrong with it is known at once.

        Raises: what loading raises.
        """
        model = next(iter(self._models.values()))
        if self._first is not None:
            await self._keep(model, self._first)
        await self.load(model.info.name)
        for name, path in self._first_adapters.items():
            await self.load_adapter(name, str(path))
        if self._idle_unload_s is not None:
            self._sweep = asyncio.create_task(self._unload_idle(self._idle_unload_s))

    async def stop(self) -> None:
        """Unload everything. Calling it twice is harmless."""
        self._is_over = True
        if self._sweep is not None:
            self._sweep.cancel()
        loads = [load.task for load in self._loads.values()]
        leaving = dict(self._departures)
        for task in (*loads, *leaving.values()):
            task.cancel()
        await asyncio.gather(*loads, *leaving.values(), return_exceptions=True)
        residents = {*self._residents.values(), *leaving}
        self._residents.clear()
        await asyncio.gather(*(resident.engine.stop() for resident in residents))

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend. Waits for the model where it is not loaded."""
        with self._activity.loading(request):
            resident = await self._take(self._base_of(request.model))
        try:
            stream = await resident.engine.generate(request)
        except BaseException:
            resident.release(self._clock.monotonic_s())
            raise
        return _HeldStream(stream, lambda: resident.release(self._clock.monotonic_s()))

    async def activity(self) -> Sequence[ModelActivity]:
        """See core.activity.Inspectable. A model that is being replaced is there twice."""
        residents = dict.fromkeys((*self._residents.values(), *self._departures))
        return await self._activity.describe(self._models, [r.engine for r in residents])

    async def load(self, name: str) -> None:
        """Have a model in memory. Raises: ModelNotFound, BackendError."""
        (await self._take(self._base_of(name))).release(self._clock.monotonic_s())

    async def unload(self, name: str) -> None:
        """Free a model's memory once its requests have ended. Raises: ModelNotFound."""
        self._find(name)
        if name in self._residents:
            await self._send_away(self._residents[name])

    async def replace(self, name: str) -> None:
        """Load a model's files anew. Its requests end on what they began with.

        The new engine is made beside the old one where both fit, else requests that come meanwhile
        wait for it. Raises: ModelNotFound; BackendError when it cannot be loaded: the old one then
        goes on if it was kept.
        """
        model = self._find(name)
        async with self._memory:
            old = self._residents.get(name)
            if old is not None and self._free_bytes() < model.num_bytes:
                await self._send_away(old)
                old = None
            await self._make_room(model.num_bytes)
            await self._admit(model)
            if old is not None:
                self._send_away(old)

    async def load_adapter(
        self, name: str, path: str, *, base: str | None = None, is_replacing: bool = False
    ) -> ModelInfo:
        """See core.backend.AdapterControl. The model is loaded for it where it is not."""
        known = self._adapters.get(name)
        base = base or (known.base if known is not None else next(iter(self._models)))
        if name in self._models or (known is not None and known.base != base):
            raise InvalidParameter("lora_name", name, "a name that is not in use")
        resident = await self._take(base)
        try:
            info = await resident.engine.load_adapter(name, path, is_replacing=is_replacing)
            self._adapters[name] = _Adapter(path, info)
        finally:
            resident.release(self._clock.monotonic_s())
        return info

    async def unload_adapter(self, name: str) -> None:
        """See core.backend.AdapterControl."""
        adapter = self._adapters.pop(name, None)
        if adapter is None:
            raise ModelNotFound(name, tuple(self._adapters))
        resident = self._residents.get(adapter.base)
        if resident is not None:
            await resident.engine.unload_adapter(name)

    def _base_of(self, name: str) -> str:
        """The model that an adapter was loaded over; of any other name the name itself."""
        adapter = self._adapters.get(name)
        return name if adapter is None else adapter.base

    def _find(self, name: str) -> PooledModel:
        """Raises: ModelNotFound."""
        if name not in self._models:
            raise ModelNotFound(name, tuple(self._models))
        return self._models[name]

    def _free_bytes(self) -> int:
        in_memory = {*self._residents.values(), *self._departures}
        return self._budget_bytes - sum(resident.num_bytes for resident in in_memory)

    async def _take(self, name: str) -> _Resident:
        """The loaded model, held for one request. Raises: ModelNotFound, BackendError."""
        self._find(name)
        if self._is_over:
            raise BackendError("The server was stopped.")
        resident = self._residents.get(name)
        if resident is not None and not resident.is_leaving:
            return resident.take()
        load = self._loads.get(name)
        if load is None or load.task.done():  # a finished one counted who waited then
            load = self._loads[name] = _Load(asyncio.create_task(self._make_resident(name)))
            load.task.add_done_callback(lambda done: self._end_load(name, done))
        load.num_waiting += 1
        try:
            # Who goes away does not stop what others wait for.
            return await asyncio.shield(load.task)
        except asyncio.CancelledError:
            load.num_waiting -= 1
            if load.task.done() and not load.task.cancelled() and not load.task.exception():
                load.task.result().release(self._clock.monotonic_s())
            raise

    def _end_load(self, name: str, task: asyncio.Task[_Resident]) -> None:
        if name in self._loads and self._loads[name].task is task:
            del self._loads[name]
        # Also where nobody waits any more.
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s", task.exception())

    async def _make_resident(self, name: str) -> _Resident:
        """Load a model and hold it for all who wait: else it could be sent away before them."""
        model = self._find(name)
        async with self._memory:
            resident = self._residents.get(name)
            if resident is None or resident.is_leaving:
                await self._make_room(model.num_bytes)
                resident = await self._admit(model)
        return resident.take(self._loads[name].num_waiting)

    async def _make_room(self, num_bytes: int) -> None:
        """Send models away: idle ones first, then those unused the longest. Holds `_memory`."""
        while self._free_bytes() < num_bytes:
            if self._departures:
                await asyncio.wait(self._departures.values(), return_when=asyncio.FIRST_COMPLETED)
                continue
            staying = self._residents.values()
            await self._send_away(min(staying, key=lambda r: (r.num_running > 0, r.used_at_s)))

    async def _admit(self, model: PooledModel) -> _Resident:
        """Load into memory that is there. Holds `_memory`. Raises: BackendError."""
        begin_s = self._clock.monotonic_s()
        try:
            engine = await asyncio.to_thread(model.load)
            resident = await self._keep(model, engine)
        except HeadraceError as error:
            raise BackendError(f"{model.info.name} could not be loaded: {error.message}") from error
        logger.info("loaded %s in %.1f s", model.info.name, self._clock.monotonic_s() - begin_s)
        return resident

    async def _keep(self, model: PooledModel, engine: LoadedModel) -> _Resident:
        """Let a loaded engine take its model's requests."""
        await engine.start()
        await self._load_again(model.info.name, engine)
        resident = _Resident(model.info.name, model.num_bytes, engine, self._clock.monotonic_s())
        self._residents[resident.name] = resident
        return resident

    async def _load_again(self, model: str, engine: LoadedModel) -> None:
        """Have a model's new engine load its adapters; one that is gone is served no longer."""
        for name, adapter in list(self._adapters.items()):
            if adapter.base != model:
                continue
            try:
                info = await engine.load_adapter(name, adapter.path)
                self._adapters[name] = _Adapter(adapter.path, info)
            except HeadraceError as error:
                del self._adapters[name]
                logger.error("adapter %s is not served any more: %s", name, error.message)

    def _send_away(self, resident: _Resident) -> asyncio.Task[None]:
        """Unload a model as soon as its requests have ended; those that come meanwhile wait."""
        resident.is_leaving = True
        task = self._departures.get(resident)
        if task is None:
            task = self._departures[resident] = asyncio.create_task(self._depart(resident))
            task.add_done_callback(lambda _: self._departures.pop(resident, None))
        return task

    async def _depart(self, resident: _Resident) -> None:
        while resident.num_running:
            await resident.became_idle.wait()
        if self._residents.get(resident.name) is resident:
            del self._residents[resident.name]
        await resident.engine.stop()
        logger.info("unloaded %s", resident.name)

    async def _unload_idle(self, idle_s: float) -> None:
        while True:
            await asyncio.sleep(min(idle_s / 4, 10.0))
            oldest_s = self._clock.monotonic_s() - idle_s
            for resident in list(self._residents.values()):
                if not resident.num_running and resident.used_at_s < oldest_s:
                    await self._send_away(resident)


class _TextOnDemand:
    """The text side of a model that is not loaded: whoever needs it has it loaded."""

    def __init__(self, pool: ModelPool, name: str) -> None:
        self._pool, self._name = pool, name

    async def encode(self, request: GenerateRequest) -> tuple[int, ...]:
        """See core.backend.ModelText."""
        return await (await self._loaded()).encode(request)

    async def decode(self, token_ids: Sequence[int]) -> str:
        """See core.backend.ModelText."""
        return await (await self._loaded()).decode(token_ids)

    async def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """See core.backend.ModelText."""
        return await (await self._loaded()).token_texts(token_ids)

    def info(self) -> TokenizerInfo:
        """See core.backend.ModelText. Raises: CapacityError, this cannot wait."""
        raise CapacityError(
            f"{self._name} is not loaded now. Send a request to it, or POST /wake_up, first.",
            is_full=False,
        )

    async def _loaded(self) -> ModelText:
        await self._pool.load(self._name)
        return self._pool.text(self._name)


class _HeldStream(AsyncGenerator[RequestOutput, None]):
    """Passes a stream on; tells when it is over, however it ends."""

    def __init__(
        self, stream: AsyncGenerator[RequestOutput, None], on_end: Callable[[], None]
    ) -> None:
        self._stream, self._on_end = stream, on_end
        self._is_over = False

    async def asend(self, value: None) -> RequestOutput:
        """See AsyncGenerator."""
        try:
            return await self._stream.asend(None)
        except BaseException:
            self._end()
            raise

    async def athrow(
        self,
        kind: Any,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> RequestOutput:
        """See AsyncGenerator."""
        self._end()
        return await self._stream.athrow(kind, value, trace)

    async def aclose(self) -> None:
        """See AsyncGenerator."""
        self._end()
        await self._stream.aclose()

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._on_end()
