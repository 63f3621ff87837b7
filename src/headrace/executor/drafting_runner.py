"""DraftingRunner: a runner whose results carry guesses of the tokens that come next.

In and out: what a ModelRunner takes and gives. Owns the draft state of requests: their text, and
what drafts did for them. Guesses are made after a step and computed in the next one, where the
scheduler has room. They change when a token is computed, never what it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from headrace.core.clock import Clock
from headrace.core.step import (
    ModelRunnerOutput,
    NewRequest,
    RowOutput,
    ScheduledRequest,
    SchedulerOutput,
)
from headrace.spec.draft_length import DraftLength, RequestRecord
from headrace.spec.prompt_lookup import Match, PromptLookup
from headrace.spec.step_costs import MAX_TOKENS

MIN_MATCHES = {"pair": 2, "short": 3, "middle": 5, "long": 9}
"""Kinds of guesses, by the tokens that are equal before them."""
PRIORS = {"pair": 0.35, "short": 0.5, "middle": 0.65, "long": 0.85}


class Runner(Protocol):
    """Executes steps in the order submitted."""

    def submit(self, output: SchedulerOutput) -> None:
        """Start a step. One without requests only forgets those that finished."""
        ...

    def collect(self) -> ModelRunnerOutput:
        """Wait for the oldest step that was submitted."""
        ...


@dataclass(slots=True)
class DraftedRequest:
    """One request's text, and the kind of its newest guess."""

    new: NewRequest
    lookup: PromptLookup
    ending_token_ids: frozenset[int]
    record: RequestRecord = field(default_factory=RequestRecord)
    kind: str = ""


class DraftingRunner:
    """Guesses by prompt lookup: for requests with a prediction, or for all (`is_for_all`)."""

    def __init__(self, runner: Runner, clock: Clock, is_for_all: bool) -> None:
        self._runner = runner
        self._clock = clock
        self._is_for_all = is_for_all
        self._lengths = DraftLength(PRIORS)
        self._requests: dict[str, DraftedRequest] = {}
        self._submitted: deque[tuple[SchedulerOutput, float]] = deque()

    def submit(self, output: SchedulerOutput) -> None:
        """Start a step."""
        for request_id in output.finished_request_ids:
            self._requests.pop(request_id, None)
        for new in output.new_requests:
            if self._is_drafted(new):
                self._requests[new.request_id] = _open(new)
        started_s = self._clock.monotonic_s() if self._requests else 0.0
        self._submitted.append((output, started_s))
        self._runner.submit(output)

    def collect(self) -> ModelRunnerOutput:
        """The oldest step's result, with guesses."""
        result = self._runner.collect()
        output, started_s = self._submitted.popleft()
        if not self._requests:
            return result
        self._learn(output, result, self._clock.monotonic_s() - started_s)
        drafts = self._draft(output, result)
        if not drafts:
            return result
        rows = {
            request_id: row._replace(draft_token_ids=drafts.get(request_id, ()))
            for request_id, row in result.rows.items()
        }
        return ModelRunnerOutput(result.step_id, rows)

    def _is_drafted(self, new: NewRequest) -> bool:
        return new.pooling is None and (self._is_for_all or bool(new.predicted_token_ids))

    def _learn(self, output: SchedulerOutput, result: ModelRunnerOutput, seconds: float) -> None:
        """Take in how long the step took, and how its drafts did."""
        num_tokens = output.num_scheduled_tokens
        num_drafts = sum(row.num_draft_tokens for row in output.scheduled)
        lost_per_token = 0.0
        if all(_is_decode(row) for row in output.scheduled):
            self._lengths.costs.observe(num_tokens, seconds)
            if num_drafts and num_tokens <= MAX_TOKENS:
                lost_per_token = self._loss(len(output.scheduled), num_drafts)
        for row in output.scheduled:
            request = self._requests.get(row.request_id)
            found = result.rows[row.request_id]
            if request is None or not found.token_ids:
                continue
            request.lookup.append(found.token_ids)
            if not row.num_draft_tokens:
                self._lengths.observe_alone(request.record)
                continue
            lost = row.num_draft_tokens * lost_per_token
            num_hits = len(found.token_ids) - 1
            self._lengths.observe_draft(
                request.record, request.kind, row.num_draft_tokens, num_hits, lost
            )

    def _loss(self, num_requests: int, num_drafts: int) -> float:
        """Steps of one request that could be taken in the time of one drafted token."""
        costs = self._lengths.costs
        alone = costs.cost(num_requests)
        longer = costs.cost(num_requests + num_drafts) / alone - 1
        return max(0.0, longer) * num_requests / num_drafts

    def _draft(
        self, output: SchedulerOutput, result: ModelRunnerOutput
    ) -> Mapping[str, tuple[int, ...]]:
        """Guess for the requests that go on, as many tokens as pay."""
        going_on = [row.request_id for row in output.scheduled if row.is_sampled]
        found: list[tuple[DraftedRequest, Match]] = []
        hit_rates: list[tuple[float, int]] = []
        for request_id in going_on:
            request = self._requests.get(request_id)
            if request is None or not _goes_on(request, result.rows[request_id]):
                continue
            match = request.lookup.find() if request.record.balance > 0 else None
            if match is None:
                continue
            request.kind = _kind(match)
            found.append((request, match))
            room = len(request.lookup.read(match, MAX_TOKENS))
            hit_rates.append((self._lengths.hit_rate(request.record, request.kind), room))
        lengths = self._lengths.choose(len(going_on), hit_rates)
        drafts = {}
        for (request, match), length in zip(found, lengths, strict=True):
            token_ids = _before_end(request, request.lookup.read(match, length))
            if token_ids:
                drafts[request.new.request_id] = token_ids
        return drafts


def _open(new: NewRequest) -> DraftedRequest:
    lookup = PromptLookup(new.prompt_token_ids, new.predicted_token_ids)
    lookup.append(new.output_token_ids)
    return DraftedRequest(new, lookup, frozenset(new.stop_token_ids))


def _is_decode(row: ScheduledRequest) -> bool:
    return row.is_sampled and len(row.token_ids) == row.num_draft_tokens + 1


def _goes_on(request: DraftedRequest, found: RowOutput) -> bool:
    """Whether a token follows those that a step found, as far as a runner knows."""
    if found.error is not None or found.is_complete or not found.token_ids:
        return False
    return found.token_ids[-1] not in request.ending_token_ids


def _kind(match: Match) -> str:
    kinds = [kind for kind, least in MIN_MATCHES.items() if match.num_tokens >= least]
    return kinds[-1]


def _before_end(request: DraftedRequest, token_ids: Sequence[int]) -> tuple[int, ...]:
    """Without a token that ends the answer: it needs no guess, because nothing follows it."""
    for count, token_id in enumerate(token_ids):
        if token_id in request.ending_token_ids:
            return tuple(token_ids[:count])
    return tuple(token_ids)
