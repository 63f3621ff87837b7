"""Attempts: the backends that one request asks, and what becomes of each.

In: members of tiers. Out: their outputs, and the records that headers and the ledger are made of.
Notes health as it is seen. Chooses nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace

from headrace.core.clock import Clock
from headrace.core.errors import (
    BackendError,
    CapacityError,
    ContextTooLong,
    ModelNotFound,
    RequestError,
    TooManyAnswers,
    UnsupportedParameter,
)
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.routing import AttemptOutcome, Retried, RouteAttempt
from headrace.core.telemetry import ROUTED_ATTEMPTS, MetricSink
from headrace.core.usage import Usage
from headrace.economics.token_estimate import estimate_input_tokens
from headrace.router.health import HealthBook
from headrace.router.tier import Member

# Another backend may be able to do what this one cannot.
ELSEWHERE = (
    BackendError,
    CapacityError,
    ContextTooLong,
    TooManyAnswers,
    UnsupportedParameter,
    ModelNotFound,
)


@dataclass(slots=True, eq=False)
class Attempt:
    """A backend that is asked, since `begin_s`. `usage` is the newest that it said."""

    tier: str
    member: Member
    outcome: AttemptOutcome = "running"
    usage: Usage | None = None
    error: str | None = None
    begin_s: float | None = None
    num_in_doubt: int = 0
    retried: Retried | None = None

    def records(self, request: GenerateRequest) -> Iterator[RouteAttempt]:
        """As others see it, tries that may be billed before it.

        One that was left in the middle owes what was computed by then: its prompt, as long as it
        has not said more. So does a try that brought nothing where nobody knows how far it got.
        """
        usage, num_in_doubt = self.usage, self.num_in_doubt
        if self.retried is not None:
            num_in_doubt = max(num_in_doubt, self.retried.num_in_doubt)
        estimate: Usage | None = None
        if num_in_doubt or usage is None:
            estimate = Usage(estimate_input_tokens(request), is_estimated=True)
        if usage is None and self.outcome in ("running", "left"):
            usage = estimate
        elif usage is None and num_in_doubt:
            usage, num_in_doubt = estimate, num_in_doubt - 1
        info = self.member.info
        names = (self.tier, self.member.name, self.member.model, info.provider)
        for _ in range(num_in_doubt):
            yield RouteAttempt(*names, "failed", estimate, "in_doubt")
        yield RouteAttempt(*names, self.outcome, usage, self.error)


class Attempts:
    """Those of one request, in their order; the last one answers, or did."""

    def __init__(
        self, health: HealthBook, clock: Clock, sink: MetricSink, request: GenerateRequest
    ) -> None:
        self._health, self._clock, self._sink = health, clock, sink
        self._request = request
        self._made: list[Attempt] = []

    def __len__(self) -> int:
        return len(self._made)

    @property
    def last(self) -> Attempt:
        return self._made[-1]

    def records(self) -> tuple[RouteAttempt, ...]:
        """As they are now; one that was never asked is none of them."""
        return tuple(
            record
            for attempt in self._made
            if attempt.begin_s is not None
            for record in attempt.records(self._request)
        )

    def ask(
        self, tier: str, member: Member, request: GenerateRequest
    ) -> tuple[Attempt, AsyncGenerator[RequestOutput, None]]:
        """One more, and its outputs."""
        attempt = Attempt(tier, member)
        self._made.append(attempt)
        return attempt, self._outputs(attempt, request)

    def put_last(self, attempt: Attempt) -> None:
        """It answers, whoever was asked after it."""
        self._made.remove(attempt)
        self._made.append(attempt)

    def rename(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        """Say what its answer was for; that it answered has been counted already."""
        attempt.outcome = outcome
        self._count(attempt)

    def outrun(self, attempt: Attempt) -> None:
        """Another one answered first: it takes at least as long as it has taken."""
        if attempt.begin_s is not None:
            waited_s = self._clock.monotonic_s() - attempt.begin_s
            self._health.note_wait(attempt.member.name, waited_s)

    async def _outputs(
        self, attempt: Attempt, request: GenerateRequest
    ) -> AsyncGenerator[RequestOutput, None]:
        """The outputs of one backend; notes what becomes of it."""
        member, health, clock = attempt.member, self._health, self._clock
        attempt.begin_s = begin_s = clock.monotonic_s()
        health.begin(member.name)
        try:
            stream = await member.backend.generate(replace(request, model=member.model))
            attempt.retried = stream if isinstance(stream, Retried) else None
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
            attempt.num_in_doubt = getattr(error, "num_in_doubt", 0)
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
            self._count(attempt)

    def _count(self, attempt: Attempt) -> None:
        self._sink.add(
            ROUTED_ATTEMPTS,
            tier=attempt.tier,
            backend=attempt.member.name,
            outcome=attempt.outcome,
        )
