"""GivenOrders: what an engine is told as a whole (pause, go on, forget prefixes), and its answers.

In: orders, replies of the engine. Out: messages to it, futures. Owns whether the engine is paused
as far as callers are concerned: from the moment it is told. Knows nothing of requests.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from threading import Lock

from headrace.core.errors import CapacityError, HeadraceError
from headrace.engine.messages import (
    EngineOrder,
    OrderDone,
    PauseEngine,
    ResetPrefixes,
    ResumeEngine,
)

PAUSED = "The engine is paused. POST /resume has it go on."


class GivenOrders:
    """Each order is sent when it is given, before anything is awaited.

    `take` and `end` are called by the output thread, the rest from event loops.
    """

    def __init__(self, send: Callable[[EngineOrder], None]) -> None:
        self._send = send
        self._serial = itertools.count()
        self._open: dict[int, Future[bool]] = {}
        # Between the last reply and the engine's end.
        self._lock = Lock()
        self._has_ended = False
        self._error: HeadraceError | None = None
        self.is_paused = False

    def pause(self, keeps_running: bool, clears_cache: bool) -> Awaitable[bool]:
        """See core.backend.EngineControl. Raises: EngineDied, CapacityError."""
        done = self._give(PauseEngine(next(self._serial), keeps_running, clears_cache))
        self.is_paused = True
        return done

    def resume(self) -> Awaitable[bool]:
        """See core.backend.EngineControl. Raises: EngineDied, CapacityError."""
        done = self._give(ResumeEngine(next(self._serial)))
        self.is_paused = False
        return done

    def reset_prefixes(self, resets_running: bool) -> Awaitable[bool]:
        """See core.backend.EngineControl. Raises: EngineDied, CapacityError."""
        return self._give(ResetPrefixes(next(self._serial), resets_running))

    def take(self, reply: OrderDone) -> None:
        """Tell who waits."""
        future = self._open.pop(reply.order_id, None)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(reply.is_done)

    def end(self, error: HeadraceError | None) -> None:
        """No engine will ever answer.

        Without an error it was told to stop, as one that is replaced is: nothing moves in it and
        nothing is cached, which is what orders are for.
        """
        with self._lock:
            self._has_ended, self._error = True, error
            waiting = list(self._open.values())
            self._open.clear()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                self._settle(future)

    def _give(self, order: EngineOrder) -> Awaitable[bool]:
        future: Future[bool] = Future()
        with self._lock:
            if self._has_ended:
                # Who waits finds out: other engines are given the same order.
                self._settle(future)
                return asyncio.wrap_future(future)
            self._open[order.order_id] = future
        try:
            self._send(order)
        except CapacityError:
            self._open.pop(order.order_id, None)
            raise
        return asyncio.wrap_future(future)

    def _settle(self, future: Future[bool]) -> None:
        """Say what becomes of an order once the engine has ended."""
        if self._error is None:
            future.set_result(True)
        else:
            future.set_exception(self._error)
