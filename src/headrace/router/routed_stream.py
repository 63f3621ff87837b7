"""RoutedStream: one request's way through tiers until a backend has answered it.

In: a request and the tier that it begins with. Out: the outputs of the backend that answers, and
the Route. Nothing is passed on before a backend has said something; what fails before that is asked
elsewhere. Where nobody sees the answer before it is whole, that holds to its end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from headrace.core.cache_control import CacheControl
from headrace.core.clock import Clock
from headrace.core.errors import (
    BackendError,
    CapacityError,
    ContextTooLong,
    ModelNotFound,
    RequestError,
    UnsupportedParameter,
)
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.routing import AttemptOutcome, CacheStatus, Route, RouteAttempt
from headrace.core.telemetry import CACHED_RESPONSES, ROUTED_ATTEMPTS, MetricSink
from headrace.core.usage import Usage
from headrace.economics.metered import estimate_input_tokens
from headrace.router.cascade import Verdict, judge, with_logprobs, without_logprobs
from headrace.router.health import HealthBook
from headrace.router.policy import Decision
from headrace.router.response_cache import ResponseCache, join_outputs
from headrace.router.tier import Member, Tier

_log = logging.getLogger(__name__)

# Another backend may be able to do what this one cannot.
_ELSEWHERE = (
    BackendError,
    CapacityError,
    ContextTooLong,
    UnsupportedParameter,
    ModelNotFound,
)


@dataclass(slots=True)
class Attempt:
    """A backend that is asked. `usage` is the newest that it said."""

    tier: str
    member: Member
    outcome: AttemptOutcome = "running"
    usage: Usage | None = None
    error: str | None = None

    def record(self, num_estimated: int) -> RouteAttempt:
        """As others see it. One that was left in the middle owes what was computed by then."""
        usage = self.usage
        if usage is None and self.outcome in ("running", "left"):
            usage = Usage(num_estimated, is_estimated=True)
        return RouteAttempt(
            self.tier,
            self.member.name,
            self.member.model,
            self.member.info.provider,
            self.outcome,
            usage,
            self.error,
        )


@dataclass(frozen=True, slots=True)
class RouterParts:
    """What every stream of a router uses."""

    tiers: dict[str, Tier]
    health: HealthBook
    clock: Clock
    sink: MetricSink
    max_attempts: int
    cache: ResponseCache | None = None


class RoutedStream(AsyncGenerator[RequestOutput, None]):
    """See core.routing.Routed."""

    def __init__(self, parts: RouterParts, request: GenerateRequest, decision: Decision) -> None:
        self._parts, self._request, self._decision = parts, request, decision
        self._attempts: list[Attempt] = []
        self._errors: list[Exception] = []
        self._num_estimated = estimate_input_tokens(request)
        self._cached: CacheStatus | None = None
        self._verdict: Verdict | None = None
        self._outputs = self._answer()

    @property
    def route(self) -> Route:
        """Where it is now."""
        decision = self._decision
        attempts = tuple(attempt.record(self._num_estimated) for attempt in self._attempts)
        reason, verdict = decision.reason, self._verdict
        if self._cached == "hit":
            reason = "cache"
        elif verdict is not None and verdict.why:
            reason = f"{reason}: {verdict.why}"
        return Route(
            attempts[-1].tier if attempts else decision.tier,
            reason,
            decision.task,
            None if verdict is None else verdict.confidence,
            attempts,
            self._cached,
        )

    async def _answer(self) -> AsyncGenerator[RequestOutput, None]:
        """An old answer where there is one, else a new one, which is kept."""
        cache, request = self._parts.cache, self._request
        if cache is None:
            async with aclosing(self._new_answer()) as outputs:
                async for output in outputs:
                    yield output
            return
        key = cache.key_of(request)
        control = request.cache_control or CacheControl()
        known = cache.find(key, request) if key is not None and control.reads else None
        if known is not None:
            self._cached = "hit"
            self._parts.sink.add(CACHED_RESPONSES, status="hit")
            yield known
            return
        self._cached = "bypass" if key is None or not (control.reads or control.writes) else "miss"
        self._parts.sink.add(CACHED_RESPONSES, status=self._cached)
        kept: list[RequestOutput] = []
        async with aclosing(self._new_answer()) as outputs:
            async for output in outputs:
                if key is not None and control.writes:
                    kept.append(output)
                yield output
        if key is not None and control.writes:
            cache.keep(key, request, kept)

    async def _new_answer(self) -> AsyncGenerator[RequestOutput, None]:
        """An answer of an early tier that will do, else the last tier's."""
        cascade = self._decision.cascade
        for name in self._decision.early_tiers:
            if cascade is None:
                break
            outputs = await self._try(name, with_logprobs(self._request, cascade))
            if outputs is None:
                self._verdict = Verdict(f"{name} failed")
                continue
            self._verdict = judge(self._request, join_outputs(outputs), cascade)
            if self._verdict.is_good:
                for output in without_logprobs(outputs, self._request):
                    yield output
                return
            # What it said has been counted as an answer already.
            escalated = self._attempts[-1]
            escalated.outcome = "escalated"
            self._parts.sink.add(
                ROUTED_ATTEMPTS, tier=name, backend=escalated.member.name, outcome="escalated"
            )
        async with aclosing(self._ask_in_turn()) as last:
            async for output in last:
                yield output

    async def _try(self, name: str, request: GenerateRequest) -> list[RequestOutput] | None:
        """The whole answer of a tier; None where none of its backends gave one."""
        for member in self._parts.tiers[name].in_order(self._parts.health):
            if len(self._attempts) >= self._parts.max_attempts - 1:
                return None
            try:
                async with aclosing(self._ask(name, member, request)) as outputs:
                    return [output async for output in outputs]
            except _ELSEWHERE as error:
                self._errors.append(error)
                _log.warning("%s failed, another is asked: %s", member.name, error)
        return None

    async def _ask_in_turn(self) -> AsyncGenerator[RequestOutput, None]:
        """Ask one backend after the other. Raises: the last error, or the refusal of all."""
        for tier, member in self._candidates(self._decision.last_tier):
            has_sent = False
            try:
                async with aclosing(self._ask(tier, member, self._request)) as outputs:
                    if self._request.is_whole:
                        held = [output async for output in outputs]
                        for output in held:
                            has_sent = True
                            yield output
                    else:
                        async for output in outputs:
                            has_sent = True
                            yield output
                return
            except _ELSEWHERE as error:
                if has_sent:
                    raise
                self._errors.append(error)
                _log.warning("%s failed, another is asked: %s", member.name, error)
        raise _worst(self._errors)

    def _candidates(self, first: str) -> Iterator[tuple[str, Member]]:
        """Backends in the order in which they are asked, each once."""
        asked: set[str] = set()
        name: str | None = first
        while name is not None:
            tier = self._parts.tiers[name]
            for member in tier.in_order(self._parts.health):
                if len(self._attempts) >= self._parts.max_attempts:
                    return
                if member.name not in asked:
                    asked.add(member.name)
                    yield name, member
            name = tier.config.fallback

    async def _ask(
        self, tier: str, member: Member, request: GenerateRequest
    ) -> AsyncGenerator[RequestOutput, None]:
        """The outputs of one backend; notes what becomes of it."""
        attempt = Attempt(tier, member)
        self._attempts.append(attempt)
        health, clock = self._parts.health, self._parts.clock
        begin_s = clock.monotonic_s()
        health.begin(member.name)
        try:
            stream = await member.backend.generate(replace(request, model=member.model))
            async with aclosing(stream):
                async for output in stream:
                    if attempt.usage is None:
                        health.hear(member.name, clock.monotonic_s() - begin_s)
                    attempt.usage = output.usage
                    if output.is_finished:
                        attempt.outcome = "answered"
                    yield output
            attempt.outcome = "answered"
        except (BackendError, CapacityError) as error:
            health.fail(member.name, error)
            attempt.outcome, attempt.error = "failed", type(error).__name__
            raise
        except RequestError as error:
            # It computed nothing, and nothing is wrong with it.
            attempt.outcome, attempt.error = "failed", error.code or type(error).__name__
            raise
        except (GeneratorExit, asyncio.CancelledError):
            if attempt.outcome == "running":
                attempt.outcome = "left"
            raise
        finally:
            health.end(member.name)
            self._parts.sink.add(
                ROUTED_ATTEMPTS, tier=tier, backend=member.name, outcome=attempt.outcome
            )

    async def asend(self, value: None) -> RequestOutput:
        """See AsyncGenerator."""
        return await self._outputs.asend(None)

    async def athrow(
        self,
        kind: Any,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> RequestOutput:
        """See AsyncGenerator."""
        return await self._outputs.athrow(kind)

    async def aclose(self) -> None:
        """See AsyncGenerator."""
        await self._outputs.aclose()


def _worst(errors: Sequence[Exception]) -> Exception:
    """What the caller is told when nobody could answer.

    A failure goes before a refusal: the same request may succeed later. Of failures one that says
    when to come back goes first.
    """
    failures = [error for error in errors if not isinstance(error, RequestError)]
    if not failures:
        return errors[0]
    told = [error for error in failures if getattr(error, "retry_after_s", None) is not None]
    return (told or failures)[-1]
