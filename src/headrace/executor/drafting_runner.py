"""DraftingRunner: a runner whose results carry guesses of the tokens that come next.

In and out: what a ModelRunner takes and gives. Owns the draft state of requests: their text, and
what drafts did for them. Guesses are made after a step and computed in the next one, where the
scheduler has room. They change when a token is computed, never what it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import inf
from typing import Protocol

from headrace.core.clock import Clock
from headrace.core.frozen import frozen
from headrace.core.step import (
    ModelRunnerOutput,
    NewRequest,
    RowOutput,
    ScheduledRequest,
    SchedulerOutput,
)
from headrace.executor.draft_model import DraftModel
from headrace.executor.model_guesser import DraftedRequest, ModelGuesser, Offer
from headrace.spec.draft_length import MAX_DRAFT_TOKENS, DraftLength, NextStep
from headrace.spec.past_answers import PastAnswers
from headrace.spec.prompt_lookup import PromptLookup
from headrace.spec.speed_up import SpeedUp
from headrace.spec.step_costs import MAX_TOKENS

MIN_MATCHES = {"pair": 2, "short": 3, "middle": 5, "long": 9}
"""Kinds of looked-up guesses, by the tokens that are equal before them."""
PAST_MATCHES = {"past": 4, "long past": 9}
"""The same, of those that were found in answers that had ended."""
PRIORS = {
    "pair": 0.35,
    "short": 0.5,
    "middle": 0.65,
    "long": 0.85,
    "past": 0.5,
    "long past": 0.8,
}


class Runner(Protocol):
    """Executes steps in the order submitted."""

    @property
    def runs_ahead(self) -> bool:
        """Whether a step may be submitted before the one before it was collected."""
        ...

    def submit(self, output: SchedulerOutput) -> None:
        """Start a step. One without requests only forgets those that finished."""
        ...

    def collect(self) -> ModelRunnerOutput:
        """Wait for the oldest step that was submitted."""
        ...


@frozen
class Drafter:
    """A draft model. `pass_ratio`: what its pass is likely to cost, relative to the target's."""

    model: DraftModel
    pass_ratio: float


class DraftingRunner:
    """Guesses by prompt lookup, for requests with a prediction or for all (`is_for_all`), also in
    `past` answers where those are kept, and by a draft model where there is one and lookup has
    nothing."""

    def __init__(
        self,
        runner: Runner,
        clock: Clock,
        is_for_all: bool,
        drafter: Drafter | None = None,
        past: PastAnswers | None = None,
    ) -> None:
        self.is_on = True
        """Whether guesses are made; for measurements that compare."""
        self._runner = runner
        self._clock = clock
        self._is_for_all = is_for_all
        self._past = past
        self._lengths = DraftLength(PRIORS, drafter.pass_ratio if drafter else 1.0)
        self._guesser = ModelGuesser(drafter.model, self._lengths, clock) if drafter else None
        self._speed_up = SpeedUp()
        self._requests: dict[str, DraftedRequest] = {}
        self._submitted: deque[tuple[SchedulerOutput, float]] = deque()
        self._spent = 0.0

    @property
    def runs_ahead(self) -> bool:
        """Not where every request may have guesses: they are made between two steps."""
        return self._runner.runs_ahead and not self._is_for_all and self._guesser is None

    def hold_costs(self) -> None:
        """Learn no costs from here on: what is guessed then does not depend on the machine."""
        self._lengths.costs.is_held = True

    def submit(self, output: SchedulerOutput) -> None:
        """Start a step."""
        if self._guesser is not None:
            self._guesser.follow(output)
        for request_id in output.finished_request_ids:
            self._close(self._requests.pop(request_id, None))
        for new in output.new_requests:
            if new.pooling is None and (self._guesser or self._is_looked_up(new)):
                self._requests[new.request_id] = self._open(new)
        started_s = self._clock.monotonic_s() if self._requests else 0.0
        self._submitted.append((output, started_s))
        self._runner.submit(output)

    def collect(self) -> ModelRunnerOutput:
        """The oldest step's result, with guesses."""
        result = self._runner.collect()
        output, started_s = self._submitted.popleft()
        if self._guesser is not None:
            self._guesser.take(output, result)
        if not self._requests:
            return result
        self._learn(output, result, self._clock.monotonic_s() - started_s)
        drafts = self._draft(output, result) if self.is_on else {}
        rows = result.rows
        if drafts:
            rows = {
                request_id: row._replace(draft_token_ids=drafts.get(request_id, ()))
                for request_id, row in rows.items()
            }
        return ModelRunnerOutput(result.step_id, rows, self._speed_up.ratio)

    def _is_looked_up(self, new: NewRequest) -> bool:
        return self._is_for_all or bool(new.predicted_token_ids)

    def _open(self, new: NewRequest) -> DraftedRequest:
        lookup = None
        if self._is_looked_up(new):
            lookup = PromptLookup(new.prompt_token_ids, new.predicted_token_ids)
            lookup.append(new.output_token_ids)
        return DraftedRequest(new, lookup, frozenset(new.stop_token_ids))

    def _close(self, request: DraftedRequest | None) -> None:
        if request is None:
            return
        self._lengths.close(request.record)
        if self._past is not None and request.lookup is not None:
            self._past.add(_owner(request.new), request.lookup.answer())

    def _learn(self, output: SchedulerOutput, result: ModelRunnerOutput, seconds: float) -> None:
        """Take in how long the step took, and how its drafts did."""
        num_tokens = output.num_scheduled_tokens
        num_drafts = sum(row.num_draft_tokens for row in output.scheduled)
        lost_per_token = 0.0
        if output.scheduled and all(_is_decode(row) for row in output.scheduled):
            self._lengths.costs.observe(num_tokens, seconds)
            if num_tokens <= MAX_TOKENS:
                num_found = sum(len(row.token_ids) for row in result.rows.values())
                self._observe_speed(len(output.scheduled), num_tokens, num_found)
                if num_drafts:
                    lost_per_token = self._lengths.loss(len(output.scheduled), num_drafts)
        self._spent = 0.0
        for row in output.scheduled:
            request = self._requests.get(row.request_id)
            found = result.rows[row.request_id]
            if request is None or not found.token_ids:
                continue
            if request.lookup is not None:
                request.lookup.append(found.token_ids)
            self._learn_of(request, row, found.token_ids, lost_per_token)

    def _learn_of(
        self,
        request: DraftedRequest,
        row: ScheduledRequest,
        token_ids: Sequence[int],
        lost_per_token: float,
    ) -> None:
        """Take in what came of a request's draft, or of none. Mutates: request."""
        lost = row.num_draft_tokens * lost_per_token
        if row.num_draft_tokens and not request.guessed:
            num_drafted, num_hits = row.num_draft_tokens, len(token_ids) - 1
            self._lengths.observe_draft(request.record, request.kind, num_drafted, num_hits, lost)
            return
        if not row.num_draft_tokens:
            self._lengths.observe_alone(request.record)
        if self._guesser is not None:
            self._guesser.learn(request, row, token_ids, lost)

    def _observe_speed(self, num_requests: int, num_tokens: int, num_found: int) -> None:
        costs = self._lengths.costs
        time = costs.cost(num_tokens) + self._spent
        self._speed_up.observe(num_found, time / costs.cost(num_requests) * num_requests)

    def _draft(
        self, output: SchedulerOutput, result: ModelRunnerOutput
    ) -> Mapping[str, tuple[int, ...]]:
        """Guess for the requests that go on, as many tokens as pay."""
        going_on = [row.request_id for row in output.scheduled if row.is_sampled]
        requests = [
            self._requests[request_id]
            for request_id in going_on
            if request_id in self._requests
            and _goes_on(self._requests[request_id], result.rows[request_id])
        ]
        offers = [offer for request in requests if (offer := self._look_up(request)) is not None]
        if self._guesser is not None and len(going_on) < MAX_TOKENS:
            offers += self._guess(len(going_on), offers, requests)
        lengths = self._choose(len(going_on), offers)
        drafts = {}
        for offer, length in zip(offers, lengths, strict=True):
            token_ids = _before_end(offer.request, offer.token_ids[:length])
            offer.request.kind = offer.kind
            if offer.probabilities:
                offer.request.guessed = tuple(offer.token_ids)
                offer.request.probabilities = tuple(offer.probabilities)
            if token_ids:
                drafts[offer.request_id] = token_ids
        return drafts

    def _look_up(self, request: DraftedRequest) -> Offer | None:
        """A guess from the request's text, unless the draft model's is likely to be better."""
        if request.lookup is None or request.record.balance < 0:
            return None
        kind, token_ids = self._find(request.new, request.lookup)
        if not token_ids:
            return None
        rate = self._lengths.hit_rate(request.record, kind)
        if self._guesser is not None and self._guesser.is_better(request, rate):
            return None
        chances = [rate**place for place in range(1, len(token_ids) + 1)]
        return Offer(request, list(token_ids), chances, kind)

    def _find(self, new: NewRequest, lookup: PromptLookup) -> tuple[str, tuple[int, ...]]:
        """What followed at the longest place like the end of the text, its own before others'."""
        own = lookup.find()
        past = self._past.find(_owner(new), lookup.tail()) if self._past is not None else None
        if past is not None and past.num_tokens > (own.num_tokens if own else 0):
            token_ids = past.segment.read(past.start, MAX_DRAFT_TOKENS)
            if token_ids:
                return _kind(past.num_tokens, PAST_MATCHES), token_ids
        if own is None:
            return "", ()
        return _kind(own.num_tokens, MIN_MATCHES), lookup.read(own, MAX_DRAFT_TOKENS)

    def _guess(
        self, num_requests: int, offers: Sequence[Offer], requests: Sequence[DraftedRequest]
    ) -> list[Offer]:
        """Guesses of the draft model for requests that have no offer."""
        if self._guesser is None:
            return []
        found = {offer.request_id for offer in offers}
        lengths = self._choose(num_requests, offers)
        step = NextStep(num_requests, num_requests, float(num_requests))
        for offer, length in zip(offers, lengths, strict=True):
            step.num_tokens += length
            step.num_expected += sum(offer.chances[:length])
        others = [request for request in requests if request.new.request_id not in found]
        more = self._guesser.propose(step, others)
        self._spent = step.spent
        return more

    def _choose(self, num_requests: int, offers: Sequence[Offer]) -> list[int]:
        """Tokens of each offer. The draft model's pay by its credit for what they may lose."""
        return self._lengths.choose(
            num_requests,
            [offer.chances for offer in offers],
            [inf if offer.probabilities else offer.request.record.balance for offer in offers],
        )


def _is_decode(row: ScheduledRequest) -> bool:
    return row.is_sampled and len(row.token_ids) == row.num_draft_tokens + 1


def _goes_on(request: DraftedRequest, found: RowOutput) -> bool:
    """Whether a token follows those that a step found, as far as a runner knows."""
    if found.error is not None or found.is_complete or not found.token_ids:
        return False
    return found.token_ids[-1] not in request.ending_token_ids


def _kind(num_tokens: int, kinds: Mapping[str, int]) -> str:
    return [kind for kind, least in kinds.items() if num_tokens >= least][-1]


def _owner(new: NewRequest) -> tuple[str, str]:
    """Who may see what a request said: whoever shares its cached prefixes."""
    return new.tenant, new.cache_salt


def _before_end(request: DraftedRequest, token_ids: Sequence[int]) -> tuple[int, ...]:
    """Without a token that ends the answer: it needs no guess, because nothing follows it."""
    for count, token_id in enumerate(token_ids):
        if token_id in request.ending_token_ids:
            return tuple(token_ids[:count])
    return tuple(token_ids)
