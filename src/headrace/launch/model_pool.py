"""ModelPool: several models behind one Backend, within one budget of memory.

In: models, each with the bytes it takes and a way to load it. Out: requests at the engine of their
model, which is loaded when it is asked for; engines that were idle the longest make room. A model
can be loaded anew beside its requests. Belongs to one event loop. Knows neither files nor
processes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.core.activity import ModelActivity
from headrace.core.backend import Health, ModelInfo, ModelText, PauseMode
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
from headrace.launch.pool_adapters import PoolAdapters
from headrace.launch.pool_pauses import PoolPauses
from headrace.launch.pooled_model import LoadedModel, PooledModel, Resident
from headrace.launch.text_on_demand import TextOnDemand
from headrace.text.chat_template import no_template_error

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Load:
    """A load, and how many wait for it."""

    task: asyncio.Task[Resident]
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
        self._residents: dict[str, Resident] = {}
        self._departures: dict[Resident, asyncio.Task[None]] = {}
        self._loads: dict[str, _Load] = {}
        # Memory is made and taken by one load at a time.
        self._memory = asyncio.Lock()
        self._sweep: asyncio.Task[None] | None = None
        self._is_over = False
        self._first = first
        self._first_adapters = dict(adapters or {})
        self._adapters = PoolAdapters(self._engine_of)
        self._activity = PoolActivity(clock)
        self._pauses = PoolPauses()

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend. Loaded or not; what is loaded knows best what it is."""
        residents = self._residents
        models = [
            residents[name].engine.models()[0] if name in residents else model.info
            for name, model in self._models.items()
        ]
        return [*models, *self._adapters.infos()]

    def text(self, model: str) -> ModelText:
        """See core.backend.Backend."""
        base = self._adapters.base_of(model)
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

    def health_of(self, name: str) -> Health | None:
        """See core.backend.ModelHealths."""
        base = self._adapters.base_of(name)
        self._find(base)
        if self._is_over:
            return self.health()
        resident = self._residents.get(base)
        if resident is not None:
            return resident.engine.health()
        is_paused = self._pauses.are_paused([base])
        return Health("paused", PAUSED, is_recovering=True) if is_paused else None

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
        base = self._adapters.base_of(request.model)
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
        leaving = {resident.name for resident in self._departures if resident.num_running}
        engines = [resident.engine for resident in residents]
        return await self._activity.describe(self._models, engines, leaving)

    async def load(self, name: str) -> None:
        """Have a model in memory. Raises: ModelNotFound, BackendError."""
        (await self._take(self._adapters.base_of(name))).release(self._clock.monotonic_s())

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
                with self._activity.making_room():
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
        known = self._adapters.find(name)
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
                self._adapters.keep(name, path, info)
                return info

    async def unload_adapter(self, name: str) -> None:
        """See core.backend.AdapterControl."""
        engine = self._engine_of(self._adapters.drop(name).base)
        if engine is not None:
            await engine.unload_adapter(name)

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

    def _engine_of(self, name: str) -> LoadedModel | None:
        """The engine that takes a model's requests, where it is loaded."""
        resident = self._residents.get(name)
        return None if resident is None else resident.engine

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

    async def _take(self, name: str) -> Resident:
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

    def _end_load(self, name: str, task: asyncio.Task[Resident]) -> None:
        if name in self._loads and self._loads[name].task is task:
            del self._loads[name]
        # Also where nobody waits any more.
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s", task.exception())

    async def _make_resident(self, name: str) -> Resident:
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
        with self._activity.making_room():
            while self._free_bytes() < num_bytes:
                if leaving := self._departures.values():
                    await asyncio.wait(leaving, return_when=asyncio.FIRST_COMPLETED)
                    continue
                staying = self._residents.values()
                await self._send_away(min(staying, key=lambda r: (r.num_running > 0, r.used_at_s)))

    async def _admit(self, model: PooledModel) -> Resident:
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

    async def _keep(self, model: PooledModel, engine: LoadedModel) -> Resident:
        """Let a loaded engine take its model's requests."""
        await engine.start()
        name, stands_still, loaded = model.info.name, False, dict[str, int]()
        # Nothing is awaited between the last look and the place it gets.
        while True:
            await self._adapters.load_into(name, engine, loaded)
            if stands_still == self._pauses.are_paused([name]):
                break
            stands_still = not stands_still
            await (engine.pause("keep") if stands_still else engine.resume())
        resident = Resident(name, model.num_bytes, engine, self._clock.monotonic_s())
        self._residents[name] = resident
        return resident

    async def _loaded_text(self, model: str) -> ModelText:
        await self.load(model)
        return self.text(model)

    def _send_away(self, resident: Resident) -> asyncio.Task[None]:
        """Unload a model as soon as its requests have ended; those that come meanwhile wait."""
        resident.is_leaving = True
        task = self._departures.get(resident)
        if task is None:
            task = self._departures[resident] = asyncio.create_task(self._depart(resident))
            task.add_done_callback(lambda _: self._departures.pop(resident, None))
        return task

    async def _depart(self, resident: Resident) -> None:
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
