"""Hedging: a second backend is asked where the first one is slow to begin, within a share of calls.

In: two streams for one request, how long to wait between them. Out: the outputs of the one that
says something first; the other one is ended. Chooses no backend.
Source: Dean and Barroso, "The Tail at Scale" (2013), hedged requests.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence

from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.routing_options import HedgeConfig
from headrace.router.attempts import ELSEWHERE
from headrace.router.features import wants_tools

Stream = AsyncGenerator[RequestOutput, None]
# Calls without a hedge do not save up for a storm of them.
MAX_SAVED = 10.0


class HedgePolicy:
    """Of one tier: when a second backend is asked, and for how many calls it may be."""

    def __init__(self, config: HedgeConfig) -> None:
        self._config = config
        self._saved = 0.0

    def delay_s(self, request: GenerateRequest, known_s: Callable[[float], float | None]) -> float:
        """Count a call; seconds until it is hedged, or infinity.

        `known_s` gives a percentile of the first backend's times, where enough are known.
        """
        config = self._config
        self._saved = min(MAX_SAVED, self._saved + config.max_share)
        acts = wants_tools(request) or request.has_effects
        if request.is_background or (acts and not config.with_effects):
            return math.inf
        percentile = config.after_percentile
        delay_s = None if percentile is None else known_s(percentile)
        if delay_s is None:
            delay_s = config.after_s
        return math.inf if delay_s is None else delay_s

    def take(self) -> bool:
        """Hedge one more, where that keeps the share of all so far."""
        # A sum of tenths is a little less than 1.
        if self._saved < 1.0 - 1e-9:
            return False
        self._saved -= 1.0
        return True


class _Runner:
    """A stream whose first output is awaited beside others."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        # None at once: it ended without a word.
        self.first: asyncio.Task[RequestOutput | None] = asyncio.create_task(self._hear())

    async def _hear(self) -> RequestOutput | None:
        return await anext(self.stream, None)

    async def leave(self) -> None:
        """End it, wherever it is."""
        self.first.cancel()
        await asyncio.wait((self.first,))
        await self.stream.aclose()
        if not self.first.cancelled():
            # What it failed with is of no interest any more.
            self.first.exception()


class Race:
    """The streams of one request. `lost` is told which one failed while the other still runs."""

    def __init__(
        self,
        first: Stream,
        begin_second: Callable[[], Stream | None],
        lost: Callable[[Stream, Exception], None],
    ) -> None:
        self._first, self._begin_second, self._lost = first, begin_second, lost
        self._runners: list[_Runner] = []

    async def outputs(
        self, delay_s: float, won: Callable[[Stream], None]
    ) -> AsyncGenerator[RequestOutput, None]:
        """Those of the stream that speaks first; `won` is told which, before its first output.

        Raises: as the streams; of two that fail the error of the later.
        """
        runners = self._runners
        runners.append(_Runner(self._first))
        leaving: asyncio.Task[None] | None = None
        try:
            done, _ = await asyncio.wait((runners[0].first,), timeout=delay_s)
            second = None if done else self._begin_second()
            if second is not None:
                runners.append(_Runner(second))
            winner = await self._winner()
            others = [runner for runner in runners if runner is not winner]
            for runner in others:
                runner.first.cancel()
            if others:
                won(winner.stream)
                # Its end does not hold up the answer.
                leaving = asyncio.create_task(_leave(others))
            output = winner.first.result()
            if output is not None:
                yield output
            async for output in winner.stream:
                yield output
        finally:
            if leaving is not None:
                await leaving
            await _leave(runners)

    async def _winner(self) -> _Runner:
        """Who speaks first. Raises: the error of the last one that fails; a refusal at once."""
        left = list(self._runners)
        while True:
            await asyncio.wait(
                [runner.first for runner in left], return_when=asyncio.FIRST_COMPLETED
            )
            for runner in [runner for runner in left if runner.first.done()]:
                error = runner.first.exception()
                if error is None:
                    return runner
                left.remove(runner)
                if not left or not isinstance(error, ELSEWHERE):
                    raise error
                self._lost(runner.stream, error)


async def _leave(runners: Sequence[_Runner]) -> None:
    for runner in runners:
        runner.first.cancel()
    for runner in runners:
        await runner.leave()
