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
from headrace.core.routing import AttemptOutcome, Route, RouteAttempt
from headrace.core.telemetry import ROUTED_ATTEMPTS, MetricSink
from headrace.core.usage import Usage
from headrace.economics.metered import estimate_input_tokens
from headrace.router.health import HealthBook
from headrace.router.policy import Decision
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


class RoutedStream(AsyncGenerator[RequestOutput, None]):
    """See core.routing.Routed."""

    def __init__(self, parts: RouterParts, request: GenerateRequest, decision: Decision) -> None:
        self._parts, self._request, self._decision = parts, request, decision
        self._attempts: list[Attempt] = []
        self._errors: list[Exception] = []
        self._num_estimated = estimate_input_tokens(request)
        self._outputs = self._answer()

    @property
    def route(self) -> Route:
        """Where it is now."""
        decision = self._decision
        attempts = tuple(attempt.record(self._num_estimated) for attempt in self._attempts)
        return Route(
            attempts[-1].tier if attempts else decision.tier,
            decision.reason,
            decision.task,
            decision.confidence,
            attempts,
        )

    async def _answer(self) -> AsyncGenerator[RequestOutput, None]:
        """Ask one backend after the other. Raises: the last error, or the refusal of all."""
        for tier, member in self._candidates(self._decision.tier):
            has_sent = False
            try:
                async with aclosing(self._ask(tier, member)) as outputs:
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

    async def _ask(self, tier: str, member: Member) -> AsyncGenerator[RequestOutput, None]:
        """The outputs of one backend; notes what becomes of it."""
        attempt = Attempt(tier, member)
        self._attempts.append(attempt)
        health, clock = self._parts.health, self._parts.clock
        begin_s = clock.monotonic_s()
        health.begin(member.name)
        try:
            stream = await member.backend.generate(replace(self._request, model=member.model))
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
