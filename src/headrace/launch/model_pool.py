"""ModelPool: several models behind one Backend, within one budget of memory.

In: models, each with the bytes it takes and a way to load it. Out: requests at the engine of their
model, which is loaded when it is asked for; engines that were idle the longest make room. A model
can be loaded anew beside its requests. Belongs to one event loop. Knows neither files nor
processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from headrace.core.activity import Inspectable, ModelActivity
from headrace.core.backend import (
    Backend,
    Health,
    ModelInfo,
    ModelText,
    PauseMode,
)
from headrace.core.clock import Clock
from headrace.core.errors import (
    BackendError,
    ConfigError,
    HeadraceError,
    InvalidParameter,
    ModelNotFound,
)
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.units import format_bytes
from headrace.engine.given_orders import PAUSED
from headrace.launch.held_stream import HeldStream
from headrace.launch.pool_activity import PoolActivity
from headrace.launch.pool_pauses import Pausable, PoolPauses
from headrace.launch.text_on_demand import TextOnDemand
from headrace.text.chat_template import no_template_error

logger = logging.getLogger(__name__)


class LoadedModel(Backend, Inspectable, Pausable, Protocol):
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

    def reset_prefix_cache(self, *, reset_running: bool = False) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
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
    """An adapter that is served, in memory whenever its model is. A load of it has its own id."""

    path: str
    info: ModelInfo
    load_id: int

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
        self._load_ids = itertools.count()
        self._activity = PoolActivity(clock)
        self._pauses = PoolPauses()

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend. Loaded or not; what is loaded knows best what it is."""
        residents = self._residents
        models = [
            residents[name].engine.models()[0] if name in residents else model.info
            for name, model in self._models.items()
        ]
        return [*models, *(adapter.info for adapter in self._known_adapters().values())]

    def text(self, model: str) -> ModelText:
        """See core.backend.Backend."""
        base = self._base_of(model)
        self._find(base)
        resident = self._residents.get(base)
        if resident is None:
            return TextOnDemand(
                model,
                lambda: self._loaded_text(model),
                lambda request: self._check_asked(base, request),
            )
        return resident.engine.text(model)

    def loaded(self) -> list[str]:
        """Names of the models in memory, the longest unused first."""
        residents = sorted(self._residents.values(), key=lambda resident: resident.used_at_s)
        return [resident.name for resident in residents]

    def health(self) -> Health:
        """The best of the loaded engines: one that restarts does not close the others."""
        found = {r.engine.health().status: r.engine.health() for r in self._residents.values()}
        if self._is_over:
            return Health("dead", "The server was stopped.")
        is_paused = self._pauses.are_paused(self._models)
        unloaded = Health("paused", PAUSED, is_recovering=True) if is_paused else Health("ready")
        return found.get("ready") or next(iter(found.values()), unloaded)

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
        base = self._base_of(request.model)
        self._check_asked(base, request)
        with self._activity.loading(request):
            resident = await self._take(base)
        try:
            stream = await resident.engine.generate(request)
        except BaseException:
            resident.release(self._clock.monotonic_s())
            raise
        return HeldStream(stream, lambda: resident.release(self._clock.monotonic_s()))

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
        while True:
            resident = await self._take(base)
            try:
                info = await resident.engine.load_adapter(name, path, is_replacing=is_replacing)
            finally:
                resident.release(self._clock.monotonic_s())
            # Its place may have been taken by an engine that does not have the adapter.
            if self._residents.get(base) in (None, resident):
                self._adapters[name] = _Adapter(path, info, next(self._load_ids))
                return info

    async def unload_adapter(self, name: str) -> None:
        """See core.backend.AdapterControl."""
        adapter = self._known_adapters().pop(name, None)
        if adapter is None:
            raise ModelNotFound(name, tuple(self._adapters))
        resident = self._residents.get(adapter.base)
        if resident is not None:
            await resident.engine.unload_adapter(name)

    async def pause(self, name: str | None, mode: PauseMode, *, clear_cache: bool = True) -> bool:
        """See core.backend.EngineControl. Models that are not loaded are paused too."""
        names = self._named(name)
        return await self._pauses.pause(names, self._engines_of(names), mode, clear_cache)

    async def resume(self, name: str | None) -> None:
        """See core.backend.EngineControl."""
        names = self._named(name)
        await self._pauses.resume(names, self._engines_of(names))

    def is_paused(self, name: str | None) -> bool:
        """See core.backend.EngineControl."""
        return self._pauses.are_paused(self._named(name))

    async def reset_prefix_cache(self, name: str | None, *, reset_running: bool = False) -> bool:
        """See core.backend.EngineControl. A model that is not loaded has no cache."""
        engines = self._engines_of(self._named(name))
        orders = [engine.reset_prefix_cache(reset_running=reset_running) for engine in engines]
        return all(await asyncio.gather(*orders))

    def _named(self, name: str | None) -> list[str]:
        """The model of that name, or all. Raises: ModelNotFound."""
        return list(self._models) if name is None else [self._find(name).info.name]

    def _engines_of(self, names: Sequence[str]) -> list[LoadedModel]:
        """Engines of models, also those that end what they have."""
        residents = dict.fromkeys((*self._residents.values(), *self._departures))
        return [resident.engine for resident in residents if resident.name in names]

    def _base_of(self, name: str) -> str:
        """The model that an adapter was loaded over; of any other name the name itself."""
        adapter = self._known_adapters().get(name)
        return name if adapter is None else adapter.base

    def _known_adapters(self) -> dict[str, _Adapter]:
        """Adapters as engines know them: one that was restarted may have found other files."""
        for name, adapter in list(self._adapters.items()):
            resident = self._residents.get(adapter.base)
            if resident is None:
                continue
            infos = (info for info in resident.engine.models() if info.name == name)
            info = next(infos, None)
            if info is None:
                del self._adapters[name]
            elif info is not adapter.info:
                self._adapters[name] = replace(adapter, info=info)
        return self._adapters

    def _find(self, name: str) -> PooledModel:
        """Raises: ModelNotFound."""
        if name not in self._models:
            raise ModelNotFound(name, tuple(self._models))
        return self._models[name]

    def _check_asked(self, base: str, request: GenerateRequest) -> None:
        """Refuse what a model can never read before it is loaded for it. Raises: RequestError."""
        if base in self._residents or base not in self._models:
            return
        info = self._models[base].info
        if info.kind == "generate" and request.messages is not None and not info.has_chat_template:
            raise no_template_error()

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
            try:
                resident = await self._keep(model, engine)
            except BaseException:
                await engine.stop()
                raise
        except HeadraceError as error:
            raise BackendError(f"{model.info.name} could not be loaded: {error.message}") from error
        logger.info("loaded %s in %.1f s", model.info.name, self._clock.monotonic_s() - begin_s)
        return resident

    async def _keep(self, model: PooledModel, engine: LoadedModel) -> _Resident:
        """Let a loaded engine take its model's requests."""
        await engine.start()
        name, stands_still, loaded = model.info.name, False, dict[str, int]()
        # Nothing is awaited between the last look and the place it gets.
        while True:
            await self._load_adapters(name, engine, loaded)
            if stands_still == self._pauses.are_paused([name]):
                break
            stands_still = not stands_still
            await (engine.pause("keep") if stands_still else engine.resume())
        resident = _Resident(name, model.num_bytes, engine, self._clock.monotonic_s())
        self._residents[name] = resident
        return resident

    async def _load_adapters(self, model: str, engine: LoadedModel, loaded: dict[str, int]) -> None:
        """Have a new engine run the adapters that are served now, whatever is told meanwhile.

        One that cannot be loaded is served no longer. Mutates: loaded, name -> load id.
        """
        while (name := self._next_difference(model, loaded)) is not None:
            if name in loaded:
                del loaded[name]
                with contextlib.suppress(ModelNotFound):
                    await engine.unload_adapter(name)
                continue
            wanted = self._adapters[name]
            try:
                info = await engine.load_adapter(name, wanted.path)
                loaded[name] = wanted.load_id
                if self._load_id(name) == wanted.load_id:
                    self._adapters[name] = replace(wanted, info=info)
            except BackendError:
                raise  # the engine has ended; its adapters are as good as they were
            except HeadraceError as error:
                if self._load_id(name) == wanted.load_id:
                    del self._adapters[name]
                logger.error("adapter %s is not served any more: %s", name, error.message)

    def _next_difference(self, model: str, loaded: Mapping[str, int]) -> str | None:
        """An adapter that an engine of a model runs and should not, or the other way round."""
        wanted = {n: a.load_id for n, a in self._adapters.items() if a.base == model}
        names = (*loaded, *wanted)
        return next((name for name in names if loaded.get(name) != wanted.get(name)), None)

    def _load_id(self, name: str) -> int | None:
        adapter = self._adapters.get(name)
        return None if adapter is None else adapter.load_id

    async def _loaded_text(self, model: str) -> ModelText:
        await self.load(model)
        return self.text(model)

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
