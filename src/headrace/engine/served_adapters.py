"""ServedAdapters: the names that adapters of one model go by, and loading and unloading them.

In: names and paths, replies of the engine. Out: ModelInfo records, messages to the engine. Owns
which name means which digest. A name that is given up is free at once; the engine lets go of the
adapter when its last request has ended.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from headrace.core.backend import ModelInfo
from headrace.core.clock import Clock
from headrace.core.errors import CapacityError, HeadraceError, InvalidParameter, ModelNotFound
from headrace.engine.error_record import to_error
from headrace.engine.messages import (
    AdapterLoaded,
    AdapterUnloaded,
    LoadAdapter,
    UnloadAdapter,
)

logger = logging.getLogger(__name__)

Send = Callable[[LoadAdapter | UnloadAdapter], None]


@dataclass(frozen=True, slots=True)
class _Served:
    info: ModelInfo
    load_id: int

    @property
    def sha256(self) -> str:
        return self.info.adapter_sha256 or ""


class ServedAdapters:
    """`take` and `end` are called by the output thread, the rest from event loops."""

    def __init__(self, send: Send, base: ModelInfo, clock: Clock) -> None:
        self._send, self._base, self._clock = send, base, clock
        self._serial = itertools.count()
        self._served: dict[str, _Served] = {}
        self._loading: dict[int, Future[AdapterLoaded]] = {}
        # Names that are being loaded, each with its end.
        self._taken: dict[str, Future[None]] = {}
        self._leaving: dict[str, Future[None]] = {}
        # Between the last reply and the engine's end.
        self._lock = Lock()
        self._end: HeadraceError | None = None

    def infos(self) -> list[ModelInfo]:
        """What is served, in the order in which it was loaded."""
        return [served.info for served in list(self._served.values())]

    @property
    def are_loading(self) -> bool:
        """Whether an engine reads one now."""
        return bool(self._loading)

    def sha256(self, name: str) -> str:
        """The digest that a name stands for; "" for the base's own. Raises: ModelNotFound."""
        if name == self._base.name:
            return ""
        served = self._served.get(name)
        if served is None:
            raise ModelNotFound(name, (self._base.name, *self._served))
        return served.sha256

    async def load(self, name: str, path: str, *, is_replacing: bool = False) -> ModelInfo:
        """Have the engine load an adapter, and serve it.

        Raises: InvalidParameter for a name in use; UnsupportedFormat, ModelFileError, OutOfMemory
        for what cannot be loaded; EngineDied.
        """
        is_known = name in self._served and not is_replacing
        if name == self._base.name or name in self._taken or is_known:
            hint = "Unload it first, or replace it (load_inplace)." if is_known else ""
            raise InvalidParameter("lora_name", name, "a name that is not in use", hint)
        load_id = next(self._serial)
        loaded: Future[None] = Future()
        self._taken[name] = loaded
        try:
            reply = await self._ask(LoadAdapter(load_id, path))
            if reply.error is not None:
                raise to_error(reply.error)
            before = self._served.get(name)
            info = self._describe(name, path, reply)
            self._served[name] = _Served(info, load_id)
        finally:
            del self._taken[name]
            loaded.set_result(None)
        if before is not None and before.sha256 != reply.sha256:
            await self._loads_are_done()
            self._let_go(before.sha256)
        made_for = f", made for {reply.base_name}" if reply.base_name else ""
        logger.info(
            "loaded adapter %s: rank %d, %d bytes%s", name, reply.rank, reply.num_bytes, made_for
        )
        return info

    async def unload(self, name: str) -> None:
        """Serve a name no longer, and wait until its adapter is gone.

        Raises: ModelNotFound, EngineDied.
        """
        served = self._served.pop(name, None)
        if served is None:
            raise ModelNotFound(name, tuple(self._served))
        await self._loads_are_done()
        future = self._let_go(served.sha256)
        if future is not None:
            await asyncio.wrap_future(future)
        logger.info("unloaded adapter %s", name)

    def take(self, reply: AdapterLoaded | AdapterUnloaded) -> None:
        """Tell who waits; notice what another engine process found."""
        if isinstance(reply, AdapterUnloaded):
            self._resolve(reply.sha256)
            return
        future = self._loading.pop(reply.load_id, None)
        if reply.error is None and future is not None:
            self._resolve(reply.sha256)  # it stays after all
        if future is None:
            self._notice(reply)
        elif future.set_running_or_notify_cancel():
            future.set_result(reply)
        elif reply.error is None and not self._taken:
            self._let_go(reply.sha256)  # who asked for it has gone

    def end(self, error: HeadraceError) -> None:
        """No engine will ever answer."""
        with self._lock:
            self._end = error
            waiting: list[Future[AdapterLoaded] | Future[None]] = [
                *self._loading.values(),
                *self._leaving.values(),
            ]
            self._loading.clear()
            self._leaving.clear()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    async def _ask(self, message: LoadAdapter) -> AdapterLoaded:
        future: Future[AdapterLoaded] = Future()
        with self._lock:
            if self._end is not None:
                raise self._end
            self._loading[message.load_id] = future
        try:
            self._send(message)
        except CapacityError:
            self._loading.pop(message.load_id, None)
            raise
        return await asyncio.wrap_future(future)

    async def _loads_are_done(self) -> None:
        """What is being loaded may be the files that are let go: then they stay."""
        while self._taken:
            await asyncio.wait([asyncio.wrap_future(end) for end in self._taken.values()])

    def _let_go(self, sha256: str) -> Future[None] | None:
        """Have the engine unload it unless another name stands for it."""
        if any(served.sha256 == sha256 for served in list(self._served.values())):
            return None
        with self._lock:
            if self._end is not None:
                return None
            future = self._leaving.setdefault(sha256, Future())
        self._send(UnloadAdapter(sha256))
        return future

    def _resolve(self, sha256: str) -> None:
        future = self._leaving.pop(sha256, None)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(None)

    def _notice(self, reply: AdapterLoaded) -> None:
        """An engine that was started again has read an adapter's files anew."""
        for name, served in list(self._served.items()):
            if served.load_id != reply.load_id:
                continue
            if reply.error is not None:
                del self._served[name]
                logger.error("adapter %s is gone: %s", name, reply.error.message)
            elif reply.sha256 != served.sha256:
                info = replace(served.info, adapter_sha256=reply.sha256)
                self._served[name] = _Served(info, served.load_id)
                logger.warning("the files of adapter %s have changed since it was loaded", name)

    def _describe(self, name: str, path: str, reply: AdapterLoaded) -> ModelInfo:
        return replace(
            self._base,
            name=name,
            root=Path(path).name,
            created=int(self._clock.unix_s()),
            parent=self._base.name,
            adapter_sha256=reply.sha256,
        )
