"""RoutedStream: one request's way through tiers until a backend has answered it.

In: a request and the tier that it begins with. Out: the outputs of the backend that answers, and
the Route. Nothing is passed on before a backend has said something; what fails before that is asked
elsewhere. Where nobody sees the answer before it is whole, that holds to its end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Container, Iterator, Sequence
from contextlib import aclosing
from dataclasses import field

from headrace.core.clock import Clock
from headrace.core.errors import RequestError
from headrace.core.frozen import frozen
from headrace.core.output import RequestOutput
from headrace.core.passing_stream import PassingStream
from headrace.core.request import GenerateRequest
from headrace.core.routing import Route, Routed
from headrace.core.routing_config import CascadeConfig
from headrace.core.telemetry import HEDGED_REQUESTS, MetricSink
from headrace.economics.prices import LOCAL
from headrace.router.attempts import ELSEWHERE, Attempt, Attempts
from headrace.router.cascade import Verdict, judge, with_logprobs, without_logprobs
from headrace.router.health import HealthBook
from headrace.router.hedging import HedgePolicy, Race, Stream
from headrace.router.policy import Decision
from headrace.router.response_cache import join_outputs
from headrace.router.self_check import question_about, read_reply
from headrace.router.tier import Member, Tier

_log = logging.getLogger(__name__)


@frozen
class RouterParts:
    """What every stream of a router uses."""

    tiers: dict[str, Tier]
    health: HealthBook
    clock: Clock
    sink: MetricSink
    max_attempts: int
    hedges: dict[str, HedgePolicy] = field(default_factory=dict)


class RoutedStream(PassingStream, Routed):
    """See core.routing.Routed."""

    def __init__(self, parts: RouterParts, request: GenerateRequest, decision: Decision) -> None:
        self._parts, self._request, self._decision = parts, request, decision
        self._attempts = Attempts(parts.health, parts.clock, parts.sink, request)
        self._errors: list[Exception] = []
        # Backends that this turn need not ask again: all but those that were outrun.
        self._asked: set[str] = set()
        self._is_hedged = False
        self._verdict: Verdict | None = None
        cascade = decision.cascade
        super().__init__(self._ask_in_turn() if cascade is None else self._cascade(cascade))

    @property
    def route(self) -> Route:
        """Where it is now."""
        decision, verdict = self._decision, self._verdict
        attempts = self._attempts.records()
        reason = decision.reason
        if verdict is not None and verdict.why:
            reason = f"{reason}: {verdict.why}"
        if self._is_hedged:
            reason = f"{reason}, hedged"
        return Route(
            attempts[-1].tier if attempts else decision.tier,
            reason,
            decision.task,
            None if verdict is None else verdict.confidence,
            attempts,
        )

    async def _cascade(self, config: CascadeConfig) -> AsyncGenerator[RequestOutput, None]:
        """An answer of an early tier that will do, else the last tier's."""
        for name in self._decision.early_tiers:
            outputs = await self._try(name, with_logprobs(self._request, config))
            if outputs is None:
                self._verdict = Verdict(f"{name} failed")
                continue
            answering, answer = self._attempts.last, join_outputs(outputs)
            verdict = judge(self._request, answer, config)
            if verdict.is_good and answer is not None:
                verdict = await self._self_check(name, answer, config, verdict)
            self._verdict = verdict
            if verdict.is_good:
                self._attempts.put_last(answering)
                for output in without_logprobs(outputs, self._request):
                    yield output
                return
            self._attempts.rename(answering, "escalated")
        async with aclosing(self._ask_in_turn()) as last:
            async for output in last:
                yield output

    async def _try(self, name: str, request: GenerateRequest) -> list[RequestOutput] | None:
        """The whole answer of a tier; None where none of its backends gave one."""
        self._asked.clear()
        while len(self._attempts) < self._parts.max_attempts - 1:
            member = self._next(name)
            if member is None or not member.can_answer:
                break
            try:
                async with aclosing(self._ask(name, member, request)) as outputs:
                    return [output async for output in outputs]
            except ELSEWHERE as error:
                self._note(member, error)
        return None

    async def _self_check(
        self, name: str, answer: RequestOutput, cascade: CascadeConfig, verdict: Verdict
    ) -> Verdict:
        """Ask a model whether an answer is right, where that is wanted."""
        config = cascade.self_check
        if config is None:
            return verdict
        tier = config.tier or name
        for member in self._parts.tiers[tier].in_order(self._parts.health):
            if len(self._attempts) >= self._parts.max_attempts - 1 or not member.can_answer:
                break
            is_local = member.info.provider == LOCAL
            question = question_about(self._request, answer, config, is_local)
            if question is None:
                return verdict
            attempt, outputs = self._attempts.ask(tier, member, question)
            try:
                async with aclosing(outputs):
                    found = read_reply([output async for output in outputs])
            except ELSEWHERE as error:
                self._note(member, error)
                continue
            self._attempts.rename(attempt, "checked")
            return Verdict(found.why, verdict.confidence)
        return Verdict("self-check failed", verdict.confidence)

    async def _ask_in_turn(self) -> AsyncGenerator[RequestOutput, None]:
        """Ask one backend after the other. Raises: the last error, or the refusal of all."""
        self._asked.clear()
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
            except ELSEWHERE as error:
                if has_sent:
                    raise
                self._note(member, error)
        raise _worst(self._errors)

    def _candidates(self, first: str) -> Iterator[tuple[str, Member]]:
        """Backends in the order in which they are asked, each once unless it was outrun.

        What could not answer now is asked when nobody else is left: it may have them wait.
        """
        later: dict[str, tuple[str, Member]] = {}
        name: str | None = first
        while name is not None:
            while len(self._attempts) < self._parts.max_attempts:
                member = self._next(name, later)
                if member is None:
                    break
                if member.can_answer:
                    yield name, member
                else:
                    later[member.name] = (name, member)
            name = self._parts.tiers[name].config.fallback
        for candidate in later.values():
            if len(self._attempts) < self._parts.max_attempts:
                yield candidate

    def _next(self, tier: str, later: Container[str] = ()) -> Member | None:
        """Who is to be asked of a tier; None: all were."""
        tier_of, key = self._parts.tiers[tier], self._request.cache_key
        members = tier_of.in_order(self._parts.health, key)
        left = (m for m in members if m.name not in self._asked and m.name not in later)
        return next(left, None)

    def _ask(
        self, name: str, member: Member, request: GenerateRequest
    ) -> AsyncGenerator[RequestOutput, None]:
        """The outputs of a backend, or of another one of its tier that is faster."""
        attempt, outputs = self._attempts.ask(name, member, request)
        self._asked.add(member.name)
        hedge = self._parts.hedges.get(name)
        if hedge is None:
            return outputs
        health = self._parts.health
        delay_s = hedge.delay_s(request, lambda p: health.first_token_s(member.name, p))
        if math.isinf(delay_s):
            return outputs
        asked: dict[Stream, Attempt] = {outputs: attempt}

        def begin_second() -> Stream | None:
            second = self._find_second(name)
            if second is None or not hedge.take():
                return None
            self._asked.add(second.name)
            self._is_hedged = True
            made, stream = self._attempts.ask(name, second, request)
            asked[stream] = made
            return stream

        def won(stream: Stream) -> None:
            for other in asked.values():
                if other is not asked[stream] and other.outcome == "running":
                    self._attempts.outrun(other)
                    self._asked.discard(other.member.name)
            self._attempts.put_last(asked[stream])
            winner = "first" if stream is outputs else "second"
            self._parts.sink.add(HEDGED_REQUESTS, tier=name, winner=winner)

        def lost(stream: Stream, error: Exception) -> None:
            self._note(asked[stream].member, error)

        return Race(outputs, begin_second, lost).outputs(delay_s, won)

    def _find_second(self, name: str) -> Member | None:
        """A backend of a tier that can be asked beside another one."""
        if len(self._attempts) >= self._parts.max_attempts - 1:
            return None
        health = self._parts.health
        for member in self._parts.tiers[name].in_order(health):
            is_free = member.can_answer and not health.is_resting(member.name)
            if member.name not in self._asked and is_free:
                return member
        return None

    def _note(self, member: Member, error: Exception) -> None:
        self._errors.append(error)
        _log.warning("%s failed, another is asked: %s", member.name, error)


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
