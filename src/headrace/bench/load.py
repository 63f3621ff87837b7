"""Runs a load: closed (N at once, the next when one ends) or open (each when it is due).

In: a target, asks, and for an open loop their arrivals. Out: an Outcome for every ask, whatever
became of it. An open loop waits for nobody: a slow answer delays no later request, and latencies
count from the arrival, so that no wait is omitted. Units: seconds from the beginning of the run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from headrace.bench.outcome import Failure, Hearing, Outcome, RequestFailed
from headrace.bench.workload import Ask
from headrace.core.frozen import frozen
from headrace.core.units import format_seconds

OnEnd = Callable[[Outcome], None]


class Target(Protocol):
    """Whatever answers."""

    async def send(self, ask: Ask, hearing: Hearing) -> None:
        """Make the request and stay until its answer is complete.

        Mutates: hearing, as the answer comes.
        Raises: RequestFailed.
        """
        ...


@frozen
class LoadRun:
    """How a load is run. `on_end` hears of each request that ended."""

    target: Target
    timeout_s: float
    on_end: OnEnd

    async def closed(self, asks: Sequence[Ask], concurrency: int) -> list[Outcome]:
        """Keep `concurrency` requests running until all are made."""
        begin_s = time.perf_counter()
        waiting = iter(asks)
        outcomes: list[Outcome] = []
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(asks))):
                group.create_task(self._work_off(waiting, begin_s, outcomes))
        return sorted(outcomes, key=lambda outcome: outcome.index)

    async def open(self, asks: Sequence[Ask], arrivals_s: Sequence[float]) -> list[Outcome]:
        """Make each request when it is due."""
        begin_s = time.perf_counter()
        tasks = []
        async with asyncio.TaskGroup() as group:
            for ask, arrival_s in zip(asks, arrivals_s, strict=True):
                await asyncio.sleep(max(0.0, begin_s + arrival_s - time.perf_counter()))
                tasks.append(group.create_task(self._request(ask, begin_s, arrival_s)))
        return [task.result() for task in tasks]

    async def _work_off(
        self, waiting: Iterator[Ask], begin_s: float, outcomes: list[Outcome]
    ) -> None:
        for ask in waiting:
            outcomes.append(await self._request(ask, begin_s, time.perf_counter() - begin_s))

    async def _request(self, ask: Ask, begin_s: float, scheduled_s: float) -> Outcome:
        sent_s = time.perf_counter()
        hearing = Hearing()
        failure = await self._send(ask, hearing)
        outcome = Outcome(
            index=ask.index,
            scheduled_s=scheduled_s,
            sent_s=sent_s - begin_s,
            end_s=time.perf_counter() - begin_s,
            event_s=tuple(moment_s - begin_s for moment_s in hearing.event_s),
            asked_output_tokens=ask.max_tokens,
            input_tokens=hearing.input_tokens,
            cached_input_tokens=hearing.cached_input_tokens,
            output_tokens=hearing.output_tokens,
            failure=failure or check_answer(hearing),
        )
        self.on_end(outcome)
        return outcome

    async def _send(self, ask: Ask, hearing: Hearing) -> Failure | None:
        try:
            async with asyncio.timeout(self.timeout_s):
                await self.target.send(ask, hearing)
        except TimeoutError:
            return Failure("timeout", f"no complete answer within {format_seconds(self.timeout_s)}")
        except RequestFailed as error:
            return Failure(error.kind, error.message)
        return None


def check_answer(hearing: Hearing) -> Failure | None:
    """An answer that ended well but cannot be measured is a failure, not a guess."""
    if hearing.input_tokens is None or hearing.output_tokens is None:
        return Failure("no_usage", "the answer came without token counts (usage)")
    if not hearing.event_s:
        return Failure("no_text", "the answer has no text, so there is no first token to time")
    return None
