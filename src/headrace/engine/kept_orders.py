"""KeptOrders: what an engine process was told as a whole, for the process that comes after it.

In: orders to the engine and its replies. Out: what a new process is told before and after it gets
the requests of the last one. Knows nothing of requests.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.engine.messages import EngineOrder, OrderDone, PauseEngine, ResumeEngine

_NOBODYS = -1
"""The id of an order whose answer nobody waits for."""


class KeptOrders:
    """One thread at a time."""

    def __init__(self) -> None:
        self._pause: PauseEngine | None = None
        self._open: dict[int, EngineOrder] = {}

    @property
    def are_open(self) -> bool:
        """Whether an answer is to come. A pause waits for nothing but what moves."""
        return bool(self._open)

    @property
    def stands_still(self) -> bool:
        """Whether the engine has said that it is paused: nothing is to be heard of it."""
        return self._pause is not None and self._pause.order_id not in self._open

    def send(self, order: EngineOrder) -> None:
        """Keep what the engine is sent."""
        if isinstance(order, PauseEngine):
            self._pause = order
        elif isinstance(order, ResumeEngine):
            self._pause = None
        self._open[order.order_id] = order

    def take(self, reply: OrderDone) -> None:
        """Keep what became of it."""
        self._open.pop(reply.order_id, None)

    def before_requests(self) -> list[EngineOrder]:
        """The engine has ended: what the next one is sent first, so that none of them starts."""
        if self._pause is None:
            return []
        return [replace(self._pause, order_id=_NOBODYS, clears_cache=False)]

    def after_requests(self) -> list[EngineOrder]:
        """What was not answered. A pause is reached when the last requests have ended here too."""
        return list(self._open.values())
