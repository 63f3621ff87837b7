"""What a pool of models does for whom: its engines' requests, and those that wait for a model.

In: requests as they wait for a load. Out: ModelActivity records. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from headrace.core.activity import Inspectable, ModelActivity, RequestActivity
from headrace.core.clock import Clock
from headrace.core.request import GenerateRequest


class PoolActivity:
    """Requests between their arrival and their engine."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: dict[int, tuple[GenerateRequest, float]] = {}
        self._is_making_room = False

    @contextmanager
    def loading(self, request: GenerateRequest) -> Iterator[None]:
        """A request waits for its model while the block runs."""
        self._waiting[id(request)] = (request, self._clock.monotonic_s())
        try:
            yield
        finally:
            del self._waiting[id(request)]

    @contextmanager
    def making_room(self) -> Iterator[None]:
        """Every load waits for models to leave while the block runs."""
        self._is_making_room = True
        try:
            yield
        finally:
            self._is_making_room = False

    async def describe(
        self,
        models: Collection[str],
        engines: Collection[Inspectable],
        leaving: Collection[str],
    ) -> Sequence[ModelActivity]:
        """Every engine, also ones that finish what they have, then models without one.

        `leaving` are models that go when their requests have ended.
        """
        found = await asyncio.gather(*(engine.activity() for engine in engines))
        rows = [row for engine_rows in found for row in engine_rows]
        known = {row.model for row in rows}
        rows += [
            ModelActivity(model=name, health=None, is_current=True)
            for name in models
            if name not in known
        ]
        others = tuple(sorted(leaving)) if self._is_making_room else ()
        loading = [self._row(*entry, others) for entry in list(self._waiting.values())]
        return [
            ModelActivity(
                model=row.model,
                health=row.health,
                is_current=row.is_current,
                requests=(*row.requests, *(r for name, r in loading if name == row.model)),
            )
            for row in rows
        ]

    def _row(
        self, request: GenerateRequest, since_s: float, others: tuple[str, ...]
    ) -> tuple[str, RequestActivity]:
        return request.model, RequestActivity(
            request_id=request.request_id,
            call_id=request.call_id,
            tenant=request.tenant,
            phase="loading",
            waits_for="room" if others else "model",
            other_models=others,
            age_s=self._clock.monotonic_s() - since_s,
            priority=request.priority,
            is_background=request.is_background,
            max_tokens=request.sampling.max_tokens,
        )
