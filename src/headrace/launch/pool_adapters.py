"""PoolAdapters: the adapters that a pool serves, whether or not their models are in memory.

In: names and paths, engines that were loaded. Out: records, orders to engines. An engine that is
loaded runs the adapters of its model before it gets a request. Belongs to one event loop.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from headrace.core.backend import ModelInfo
from headrace.core.errors import BackendError, HeadraceError, ModelNotFound
from headrace.core.frozen import frozen

logger = logging.getLogger(__name__)


class AdapterEngine(Protocol):
    """An engine that runs adapters."""

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend."""
        ...

    async def load_adapter(
        self, name: str, path: str, *, base: str | None = None, is_replacing: bool = False
    ) -> ModelInfo:
        """See core.backend.AdapterControl."""
        ...

    async def unload_adapter(self, name: str) -> None:
        """See core.backend.AdapterControl."""
        ...


@frozen
class PooledAdapter:
    """An adapter that is served, in memory whenever its model is. A load of it has its own id."""

    path: str
    info: ModelInfo
    load_id: int

    @property
    def base(self) -> str:
        return self.info.parent or ""


class PoolAdapters:
    """Names of adapters. `engine_of` is the engine of a model, where that is loaded."""

    def __init__(self, engine_of: Callable[[str], AdapterEngine | None]) -> None:
        self._engine_of = engine_of
        self._adapters: dict[str, PooledAdapter] = {}
        self._load_ids = itertools.count()

    def infos(self) -> list[ModelInfo]:
        """What is served."""
        return [adapter.info for adapter in self._known().values()]

    def find(self, name: str) -> PooledAdapter | None:
        """An adapter as it was loaded."""
        return self._adapters.get(name)

    def base_of(self, name: str) -> str:
        """The model that an adapter was loaded over; of any other name the name itself."""
        adapter = self._known().get(name)
        return name if adapter is None else adapter.base

    def keep(self, name: str, path: str, info: ModelInfo) -> None:
        """Serve what an engine has loaded. Mutates: self."""
        self._adapters[name] = PooledAdapter(path, info, next(self._load_ids))

    def drop(self, name: str) -> PooledAdapter:
        """Serve it no longer. Raises: ModelNotFound. Mutates: self."""
        adapter = self._known().pop(name, None)
        if adapter is None:
            raise ModelNotFound(name, tuple(self._adapters))
        return adapter

    async def load_into(self, model: str, engine: AdapterEngine, loaded: dict[str, int]) -> None:
        """Have a new engine run the adapters that are served now, whatever is told meanwhile.

        One that cannot be loaded is served no longer. Mutates: self; loaded, name -> load id.
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

    def _known(self) -> dict[str, PooledAdapter]:
        """Adapters as engines know them: one that was restarted may have found other files."""
        for name, adapter in list(self._adapters.items()):
            engine = self._engine_of(adapter.base)
            if engine is None:
                continue
            info = next((info for info in engine.models() if info.name == name), None)
            if info is None:
                del self._adapters[name]
            elif info is not adapter.info:
                self._adapters[name] = replace(adapter, info=info)
        return self._adapters

    def _next_difference(self, model: str, loaded: Mapping[str, int]) -> str | None:
        """An adapter that an engine of a model runs and should not, or the other way round."""
        wanted = {n: a.load_id for n, a in self._adapters.items() if a.base == model}
        names = (*loaded, *wanted)
        return next((name for name in names if loaded.get(name) != wanted.get(name)), None)

    def _load_id(self, name: str) -> int | None:
        adapter = self._adapters.get(name)
        return None if adapter is None else adapter.load_id
