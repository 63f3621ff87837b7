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
from dataclasses import replace
from pathlib import Path
from threading import RLock

from headrace.core.backend import ModelInfo
from headrace.core.clock import Clock
from headrace.core.errors import CapacityError, HeadraceError, InvalidParameter, ModelNotFound
from headrace.core.frozen import frozen
from headrace.engine.error_record import to_error
from headrace.engine.messages import (
    AdapterLoaded,
    AdapterUnloaded,
    LoadAdapter,
    UnloadAdapter,
)

logger = logging.getLogger(__name__)

Send = Callable[[LoadAdapter | UnloadAdapter], None]


@frozen
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
        # Names that are being loaded.
        self._taken: set[str] = set()
        self._leaving: dict[str, Future[None]] = {}
        # Of them, those that the engine was not told.
        self._untold: set[str] = set()
        # Messages leave in the order in which they are decided on. Reentrant: a host may answer at
        # once.
        self._lock = RLock()
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
        with self._lock:
            self._check_name(name, is_replacing)
            self._taken.add(name)
        try:
            load_id, reply = await self._ask(path)
            if reply.error is not None:
                raise to_error(reply.error)
            info = self._describe(name, path, reply)
            self._serve(name, _Served(info, load_id))
        finally:
            with self._lock:
                self._taken.discard(name)
                self._tell()
        made_for = f", made for {reply.base_name}" if reply.base_name else ""
        logger.info(
            "loaded adapter %s: rank %d, %d bytes%s", name, reply.rank, reply.num_bytes, made_for
        )
        return info

    async def unload(self, name: str) -> None:
        """Serve a name no longer, and wait until its adapter is gone.

        Raises: ModelNotFound.
        """
        with self._lock:
            served = self._served.pop(name, None)
            if served is None:
                raise ModelNotFound(name, tuple(self._served))
            future = self._leave(served.sha256)
        if future is not None:
            # Who stops waiting stops nobody else's.
            await asyncio.shield(asyncio.wrap_future(future))
        logger.info("unloaded adapter %s", name)

    def take(self, reply: AdapterLoaded | AdapterUnloaded) -> None:
        """Tell who waits; notice what another engine process found."""
        with self._lock:
            if isinstance(reply, AdapterUnloaded):
                self._resolve(reply.sha256)
                return
            future = self._loading.pop(reply.load_id, None)
            if future is None:
                self._notice(reply)
            elif not future.set_running_or_notify_cancel():
                self._forget(reply)
            else:
                if reply.error is None:
                    self._resolve(reply.sha256)  # it stays after all
                future.set_result(reply)

    def end(self, error: HeadraceError) -> None:
        """No engine will ever answer: what was to be unloaded is gone with it."""
        with self._lock:
            self._end = error
            waiting = list(self._loading.values())
            self._loading.clear()
            for sha256 in list(self._leaving):
                self._resolve(sha256)
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _check_name(self, name: str, is_replacing: bool) -> None:
        """Raises: InvalidParameter for a name in use."""
        is_known = name in self._served and not is_replacing
        if name == self._base.name or name in self._taken or is_known:
            hint = "Unload it first, or replace it (load_inplace)." if is_known else ""
            raise InvalidParameter("lora_name", name, "a name that is not in use", hint)

    async def _ask(self, path: str) -> tuple[int, AdapterLoaded]:
        """The engine's answer to a load, and the load's id."""
        load_id, future = next(self._serial), Future[AdapterLoaded]()
        with self._lock:
            if self._end is not None:
                raise self._end
            self._loading[load_id] = future
            try:
                self._send(LoadAdapter(load_id, path))
            except CapacityError:
                del self._loading[load_id]
                raise
        try:
            return load_id, await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            with self._lock:
                # The answer may have come, with nobody to take it up.
                if not future.cancel() and future.exception() is None:
                    self._forget(future.result())
            raise

    def _serve(self, name: str, served: _Served) -> None:
        with self._lock:
            before = self._served.get(name)
            self._served[name] = served
            if before is not None:
                self._leave(before.sha256)

    def _forget(self, reply: AdapterLoaded) -> None:
        """Who asked for it has gone."""
        if reply.error is None:
            self._leave(reply.sha256)

    def _leave(self, sha256: str) -> Future[None] | None:
        """Have the engine unload it unless another name stands for it."""
        if self._end is not None or self._is_served(sha256):
            return None
        future = self._leaving.setdefault(sha256, Future())
        self._untold.add(sha256)
        self._tell()
        return future

    def _tell(self) -> None:
        """Tell the engine what is to leave. What is being loaded may be the same files: then they
        stay."""
        while self._untold and not self._taken and self._end is None:
            sha256 = min(self._untold)
            if self._is_served(sha256):
                self._resolve(sha256)
            else:
                self._send(UnloadAdapter(sha256))
                self._untold.discard(sha256)

    def _is_served(self, sha256: str) -> bool:
        return any(served.sha256 == sha256 for served in self._served.values())

    def _resolve(self, sha256: str) -> None:
        self._untold.discard(sha256)
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
