"""ModelGuesser: has a draft model guess as long as that pays.

In: the step that comes, and the requests that want guesses. Out: an offer for each: tokens, and how
likely they are chosen. Passes of the draft model are taken one token at a time for those requests
that gain most by it, until none does; their cost is charged to the requests they were made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.core.clock import Clock
from headrace.core.step import ModelRunnerOutput, NewRequest, ScheduledRequest, SchedulerOutput
from headrace.executor.draft_model import DraftModel
from headrace.spec.draft_length import (
    CREDIT_SHARE,
    MAX_MODEL_TOKENS,
    MAX_REQUEST_LOSS,
    DraftLength,
    NextStep,
    RequestRecord,
)
from headrace.spec.guess_chances import ChanceRecord, GuessChances
from headrace.spec.prompt_lookup import PromptLookup

LOOKAHEAD_TOKENS = MAX_MODEL_TOKENS + 1
"""Slots beyond a request's tokens in which guesses are computed: the newest token's, and theirs."""
MAX_BACKLOG = 4
"""Tokens that a guess may have to compute first; more is catching up."""
MAX_CHUNK = 64
"""Tokens of one pass that catches up: an answer waits for it."""
FIRST_ANSWER_TOKENS = 128.0
"""Length of answers before any was seen."""
MIN_BALANCE = 1.0
"""Units: steps. What a request must have saved itself to be guessed for without credit."""
CATCH_UP_GAIN = 2.0
"""Catching up must be expected to save this much of its cost."""

_LENGTH_SHARE = 0.1
_MIN_OUTPUT_TOKENS = 2
"""The first token of an answer is not kept waiting for guesses."""


@dataclass(slots=True)
class DraftedRequest:
    """One request that is drafted for.

    `lookup`: its text, where guesses are looked up there. `kind` of its newest looked-up guess;
    `guessed` by the model for the step that comes, whether computed in it or not, with their
    `probabilities`; `spent`: steps that passes for it took.
    """

    new: NewRequest
    lookup: PromptLookup | None
    ending_token_ids: frozenset[int]
    record: RequestRecord = field(default_factory=RequestRecord)
    chances: ChanceRecord = field(default_factory=ChanceRecord)
    kind: str = ""
    guessed: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    spent: float = 0.0


@dataclass(slots=True)
class Offer:
    """Guesses for a request. `chances`: that the first is chosen, the first two, and so on."""

    request: DraftedRequest
    token_ids: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    kind: str = ""
    probabilities: list[float] = field(default_factory=list)
    is_over: bool = False

    @property
    def request_id(self) -> str:
        return self.request.new.request_id

    @property
    def chance(self) -> float:
        """Of all that is guessed so far."""
        return self.chances[-1] if self.chances else 1.0


class ModelGuesser:
    """A draft model, and what is known of how good it is."""

    def __init__(self, draft: DraftModel, lengths: DraftLength, clock: Clock) -> None:
        self._draft = draft
        self._lengths = lengths
        self._clock = clock
        self._chances = GuessChances()
        self._answer_tokens = FIRST_ANSWER_TOKENS

    def follow(self, output: SchedulerOutput) -> None:
        """A step begins. Mutates: self."""
        for request_id in output.finished_request_ids:
            num_tokens = self._draft.num_output_tokens(request_id)
            if num_tokens:
                self._answer_tokens += _LENGTH_SHARE * (num_tokens - self._answer_tokens)
        self._draft.follow(output)

    def take(self, output: SchedulerOutput, result: ModelRunnerOutput) -> None:
        """A step is over. Mutates: self."""
        for row in output.scheduled:
            self._draft.take(row, result.rows[row.request_id].token_ids)

    def learn(
        self,
        request: DraftedRequest,
        row: ScheduledRequest,
        token_ids: Sequence[int],
        lost: float,
    ) -> None:
        """Take in what came of a guess, or of none. `token_ids`: what the step chose for the
        request; `lost`: steps that its rows took.

        A guess that was not computed is learned from all the same: a request for which every guess
        is too doubtful to be computed must stop paying for passes.
        Mutates: self, request.
        """
        spent, request.spent = request.spent, 0.0
        guessed, request.guessed = request.guessed, ()
        saved = len(token_ids) - 1 - lost - spent
        if guessed:
            num_right = _num_equal(guessed, token_ids)
            known = request.probabilities[: len(token_ids)]
            self._chances.observe(request.chances, known, num_right)
        else:
            self._chances.rest(request.chances)
        if not row.num_draft_tokens:
            self._lengths.settle_credit(CREDIT_SHARE)
            if not spent:
                self._lengths.pass_costs.rest()
        self._lengths.settle(request.record, saved)
        self._lengths.settle_credit(saved)

    def is_better(self, request: DraftedRequest, hit_rate: float) -> bool:
        """Whether the model's guess is likely better than one that was looked up.

        A looked-up one costs no pass and often has more tokens, so it may be right less often.
        """
        return hit_rate < 0.7 * self._chances.mean(request.chances) and self._is_ready(request)

    def propose(self, step: NextStep, requests: Sequence[DraftedRequest]) -> list[Offer]:
        """Guess for some requests of the step that comes. Mutates: step, requests."""
        offers = [Offer(request) for request in requests if self._is_allowed(request)]
        ready = [offer for offer in offers if self._is_ready(offer.request)]
        behind = [offer for offer in offers if not self._is_ready(offer.request)]
        if behind:
            ready += self._catch_up(step, behind)
        while ready:
            ready.sort(key=self._next_chance, reverse=True)
            chances = [self._next_chance(offer) for offer in ready]
            chosen = ready[: self._lengths.num_paying(step, chances)]
            if not chosen:
                break
            self._guess(step, chosen)
            ready = [offer for offer in chosen if self._may_go_on(offer)]
        return [offer for offer in offers if offer.token_ids]

    def _is_allowed(self, request: DraftedRequest) -> bool:
        balance = request.record.balance
        has_credit = self._lengths.credit > 0 and balance > -MAX_REQUEST_LOSS
        has_account = balance >= MIN_BALANCE or has_credit
        name = request.new.request_id
        has_begun = self._draft.num_output_tokens(name) >= _MIN_OUTPUT_TOKENS
        return has_account and has_begun and self._room(request) > 0

    def _is_ready(self, request: DraftedRequest) -> bool:
        return self._draft.num_behind(request.new.request_id) <= MAX_BACKLOG

    def _room(self, request: DraftedRequest) -> int:
        name, new = request.new.request_id, request.new
        room = self._draft.room(name)
        if new.max_num_tokens is not None:
            num_tokens = len(new.prompt_token_ids) + self._draft.num_output_tokens(name)
            room = min(room, new.max_num_tokens - num_tokens - 1)
        return room

    def _next_chance(self, offer: Offer) -> float:
        return offer.chance * self._chances.mean(offer.request.chances)

    def _may_go_on(self, offer: Offer) -> bool:
        is_long = len(offer.token_ids) >= MAX_MODEL_TOKENS
        return not offer.is_over and not is_long and self._room(offer.request) > 0

    def _guess(self, step: NextStep, offers: Sequence[Offer]) -> None:
        """One pass for some requests. Those that cannot be guessed for lose their tokens.

        Mutates: step, offers, requests.
        """
        wanted = {each.request_id: self._draft.num_behind(each.request_id) for each in offers}
        begin_s = self._clock.monotonic_s()
        guesses = self._draft.run(wanted)
        cost = self._observe(sum(wanted.values()), self._clock.monotonic_s() - begin_s)
        step.spent += cost
        share = self._lengths.share(cost, step.num_requests, len(offers))
        for offer in offers:
            offer.request.spent += share
            guess = guesses.get(offer.request_id)
            if guess is None or guess.token_id in offer.request.ending_token_ids:
                offer.is_over = True  # nothing follows an end, so it needs no guess
                continue
            chance = self._chances.chance(offer.request.chances, guess.probability)
            offer.token_ids.append(guess.token_id)
            offer.probabilities.append(guess.probability)
            offer.chances.append(offer.chance * chance)
            step.num_tokens += 1
            step.num_expected += offer.chance

    def _observe(self, num_tokens: int, seconds: float) -> float:
        """Learn from a pass; what it cost."""
        relative = self._lengths.costs.relative(seconds)
        if relative is not None and relative > 0:
            self._lengths.pass_costs.observe(num_tokens, relative)
        return self._lengths.pass_costs.cost(num_tokens)

    def _catch_up(self, step: NextStep, offers: Sequence[Offer]) -> list[Offer]:
        """Compute a chunk of a request that is behind, where its answer is likely to be worth it.

        Returns those that are ready then. Mutates: step.
        """
        speed_up = self._lengths.speed_up(step.num_requests, self._chances.mean())
        saved_per_token = 1 - 1 / speed_up
        for offer in offers:
            num_behind = self._draft.num_behind(offer.request_id)
            cost = self._lengths.pass_costs.cost(num_behind)
            lost = self._lengths.share(cost, step.num_requests, 1)
            saved = saved_per_token * self._num_expected_tokens(offer.request)
            if lost > self._lengths.credit or saved < CATCH_UP_GAIN * lost:
                continue
            num_tokens = min(num_behind - 1, MAX_CHUNK)
            begin_s = self._clock.monotonic_s()
            self._draft.run({offer.request_id: num_tokens})
            cost = self._observe(num_tokens, self._clock.monotonic_s() - begin_s)
            step.spent += cost
            self._lengths.settle_credit(-self._lengths.share(cost, step.num_requests, 1))
            return [offer] if self._is_ready(offer.request) else []
        return []

    def _num_expected_tokens(self, request: DraftedRequest) -> float:
        """Of the rest of an answer: as many as answers have, wherever it is."""
        new = request.new
        if new.max_num_tokens is None:
            return self._answer_tokens
        num_tokens = self._draft.num_output_tokens(new.request_id)
        left = new.max_num_tokens - len(new.prompt_token_ids) - num_tokens
        return min(self._answer_tokens, left)


def _num_equal(guessed: Sequence[int], token_ids: Sequence[int]) -> int:
    """Guesses that came true, before the first that did not."""
    pairs = enumerate(zip(guessed, token_ids, strict=False))
    num_known = min(len(guessed), len(token_ids))
    return next((place for place, (guess, chosen) in pairs if guess != chosen), num_known)
