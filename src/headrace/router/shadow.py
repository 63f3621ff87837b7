"""Shadows: a share of answers is compared with what another tier says to the same request.

In: requests with the whole answer that was sent. Out: a record for each. It begins when the answer
has ended, is bounded, and nobody waits for it; what fails is recorded as such.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.core.frozen import frozen
from headrace.core.output import CompletionDelta, RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.routing import Route
from headrace.core.routing_options import ShadowConfig
from headrace.core.telemetry import SHADOW_REQUESTS, MetricSink
from headrace.router.agreement import agreement
from headrace.router.features import read_facts, wants_tools
from headrace.router.response_cache import join_outputs
from headrace.router.route_features import feature_values

_log = logging.getLogger(__name__)

RECORD_VERSION = 1


@frozen
class ShadowAnswer:
    """What another tier said, where it came from and what it cost in nano-dollars."""

    answer: RequestOutput
    route: Route | None
    nano_usd: int | None


AskShadow = Callable[[GenerateRequest], Awaitable[ShadowAnswer]]


class ShadowLog(Protocol):
    """Where records go."""

    async def add(self, record: Mapping[str, Any]) -> None:
        """Keep a record. Never raises for what a disk can do."""
        ...


class Shadows:
    """Belongs to one event loop. `close` it when no more answers come."""

    def __init__(
        self,
        config: ShadowConfig,
        ask: AskShadow,
        log: ShadowLog,
        clock: Clock,
        sink: MetricSink,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config, self._ask, self._log = config, ask, log
        self._clock, self._sink, self._chance = clock, sink, chance
        self._running: set[asyncio.Task[None]] = set()

    @property
    def num_running(self) -> int:
        """Comparisons in progress."""
        return len(self._running)

    def pick(self, request: GenerateRequest) -> bool:
        """Whether the answer of a request is to be compared."""
        config = self._config
        # A shadow runs in the background itself.
        if request.is_background or request.sampling.n > 1 or wants_tools(request):
            return False
        if config.tasks and _task_of(request) not in config.tasks:
            return False
        return self._chance() < config.share

    def compare(
        self,
        request: GenerateRequest,
        route: Route,
        outputs: Sequence[RequestOutput],
        duration_s: float,
    ) -> None:
        """Begin to compare an answer that has ended. Returns at once."""
        config, answer = self._config, join_outputs(outputs)
        is_wanted = not config.of or route.tier in config.of
        if answer is None or not is_wanted or route.tier == config.use:
            return
        if len(self._running) >= config.max_running:
            self._count("dropped")
            return
        task = asyncio.create_task(self._run(request, route, answer, duration_s))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def close(self) -> None:
        """End what is in progress; it leaves no record."""
        for task in self._running:
            task.cancel()

    async def _run(
        self, request: GenerateRequest, route: Route, answer: RequestOutput, duration_s: float
    ) -> None:
        begin_s = self._clock.monotonic_s()
        found: ShadowAnswer | None = None
        error: str | None = None
        try:
            found = await self._ask(_as_shadow(request, self._config.use, route.task))
        except HeadraceError as failure:
            error = type(failure).__name__
        except Exception:
            _log.exception("a comparison with %s failed", self._config.use)
            error = "InternalError"
        self._count("failed" if found is None else "compared")
        record = self._record(request, route, answer, found)
        record["duration_s"] = round(duration_s, 6)
        record["other_duration_s"] = round(self._clock.monotonic_s() - begin_s, 6)
        record["error"] = error
        await self._log.add(record)

    def _record(
        self,
        request: GenerateRequest,
        route: Route,
        answer: RequestOutput,
        found: ShadowAnswer | None,
    ) -> dict[str, Any]:
        config = self._config
        record: dict[str, Any] = {
            "version": RECORD_VERSION,
            "at_s": round(self._clock.unix_s(), 3),
            "request_id": request.call_id or request.request_id,
            "task": route.task,
            "reason": route.reason,
            "confidence": route.confidence,
            "metric": config.metric,
            "features": feature_values(read_facts(request)),
            **_side("", answer, route),
        }
        if found is not None:
            record |= _side("other_", found.answer, found.route)
            record["other_cost_nano_usd"] = found.nano_usd
            texts = _text(answer), _text(found.answer)
            record["agreement"] = round(agreement(*texts, config.metric), 6)
        else:
            record |= {"other_tier": config.use, "agreement": None}
        if config.keeps_texts:
            record["prompt"] = request.prompt
            record["messages"] = [
                {"role": message.role, "content": message.content}
                for message in request.messages or ()
            ]
            record["text"] = _text(answer)
            record["other_text"] = None if found is None else _text(found.answer)
        return record

    def _count(self, outcome: str) -> None:
        self._sink.add(SHADOW_REQUESTS, tier=self._config.use, outcome=outcome)


def _as_shadow(request: GenerateRequest, tier: str, task: str | None) -> GenerateRequest:
    """The same request for another tier."""
    return replace(
        request,
        request_id=f"{request.request_id}-shadow",
        model=f"auto:{tier}",
        task=task,
        priority=0,
        prediction=None,
        trace=None,
    )


def _task_of(request: GenerateRequest) -> str | None:
    name = request.model
    return name.removeprefix("auto/") if name.startswith("auto/") else request.task


def _side(prefix: str, answer: RequestOutput, route: Route | None) -> dict[str, Any]:
    """One of two answers, by numbers."""
    attempt = route.attempts[-1] if route is not None and route.attempts else None
    return {
        f"{prefix}tier": None if route is None else route.tier,
        f"{prefix}backend": None if attempt is None else attempt.backend,
        f"{prefix}input_tokens": answer.usage.input_tokens,
        f"{prefix}output_tokens": answer.usage.output_tokens,
        f"{prefix}num_chars": len(_text(answer)),
        f"{prefix}finish_reason": _first(answer).finish_reason,
    }


def _first(answer: RequestOutput) -> CompletionDelta:
    return answer.deltas[0] if answer.deltas else CompletionDelta(0)


def _text(answer: RequestOutput) -> str:
    return _first(answer).text
