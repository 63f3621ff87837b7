"""How many tokens to draft: as many as raise the tokens per second that are expected.

In: how often drafts of each kind were right, what steps and a draft model's passes cost, how many
requests share the step. Out: a number of tokens for each request. No draft may lose more than its
request's account and the engine's purse hold, and both are filled by what drafts have saved and by
a small share of the tokens gained without; so drafting never costs more than that share, whatever
the texts are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.spec.hit_rate import HitRate
from headrace.spec.step_costs import MAX_TOKENS, PassCosts, StepCosts

MAX_DRAFT_TOKENS = 15
MAX_MODEL_TOKENS = 6
"""Of a draft model's guesses: each costs a pass, and one in two thousand gets further."""

LOSS_SHARE = 0.015
"""Of its tokens alone, what a request may lose to drafts that were wrong."""
MAX_SAVED = 2.0
"""Units: steps. A request's earlier gains do not pay for more than this of its later losses."""
FIRST_PURSE = 1.0
MAX_PURSE = 2.0
"""Units: steps. What requests that have ended left over, for those that have saved nothing yet."""

FIRST_CREDIT = 8.0
MAX_CREDIT = 16.0
MIN_CREDIT = -6.0
"""Units: steps. What the engine's draft model has saved, which requests may lose again."""
MAX_REQUEST_LOSS = 2.0
"""Units: steps. What one request may lose of the credit, so that it is left for others."""
CREDIT_SHARE = 0.01
"""Of its tokens alone, what the credit grows by, so that another attempt is made some day."""

_REQUEST_WEIGHT = 4.0
_ENGINE_WEIGHT = 20.0
_FADING = 0.85


@dataclass(slots=True)
class RequestRecord:
    """What drafts did for one request. `balance`: steps that they have saved it."""

    balance: float = 0.0
    rates: dict[str, HitRate] = field(default_factory=dict)


@dataclass(slots=True)
class NextStep:
    """The step that is drafted for: its requests and tokens, how many tokens of answers it is
    expected to bring, and what the draft model's passes for it have cost."""

    num_requests: int
    num_tokens: int
    num_expected: float
    spent: float = 0.0


class DraftLength:
    """Chooses lengths and learns from what came of them. One engine's."""

    def __init__(self, priors: Mapping[str, float], pass_ratio: float = 1.0) -> None:
        """`priors`: how often a token of each kind of draft is right, before anything is known.

        `pass_ratio`: what a pass of the draft model costs, relative to the target's.
        """
        self.costs = StepCosts()
        self.pass_costs = PassCosts(pass_ratio)
        self.credit = FIRST_CREDIT
        self.purse = FIRST_PURSE
        self._priors = priors
        self._rates = {kind: HitRate() for kind in priors}

    def close(self, record: RequestRecord) -> None:
        """A request has ended, and leaves what it did not lose. Mutates: self."""
        self.purse = min(self.purse + max(record.balance, 0.0), MAX_PURSE)

    def hit_rate(self, record: RequestRecord, kind: str) -> float:
        """How likely a token of such a draft is chosen, if those before it are."""
        prior = self._rates[kind].rate(self._priors[kind], _ENGINE_WEIGHT)
        return record.rates.get(kind, HitRate()).rate(prior, _REQUEST_WEIGHT)

    def choose(
        self, num_requests: int, chances: Sequence[Sequence[float]], rooms: Sequence[float]
    ) -> list[int]:
        """Tokens to draft for each of some requests, in a step of `num_requests`.

        `chances`: how likely each one's first drafted token is chosen, its first two, and so on.
        The step has the tokens that bring most: the first of every request before the second of an
        unlikely one. `rooms`: steps that each may lose, beside the purse, of which the first take
        what they need.
        """
        if num_requests >= MAX_TOKENS or not chances:
            return [0] * len(chances)
        offers = sorted(
            (-chance, place, index)
            for index, falling in enumerate(chances)
            for place, chance in enumerate(falling[:MAX_DRAFT_TOKENS], 1)
        )[: MAX_TOKENS - num_requests]
        best, best_count = num_requests / self.costs.cost(num_requests), 0
        expected = float(num_requests)
        for count, (negative_gain, _, _) in enumerate(offers, 1):
            expected -= negative_gain
            speed = expected / self.costs.cost(num_requests + count)
            if speed > best:
                best, best_count = speed, count
        lengths = [0] * len(chances)
        for _, place, index in offers[:best_count]:
            lengths[index] = max(lengths[index], place)
        return self._within(rooms, num_requests, lengths)

    def loss(self, num_requests: int, num_drafts: int) -> float:
        """Steps of one request that could be taken in the time of one drafted token."""
        alone = self.costs.cost(num_requests)
        longer = self.costs.cost(num_requests + num_drafts) / alone - 1
        return max(0.0, longer) * num_requests / num_drafts

    def _within(
        self, rooms: Sequence[float], num_requests: int, lengths: Sequence[int]
    ) -> list[int]:
        """Shorter drafts, which can lose no more than there is room for."""
        shorter = list(lengths)
        while any(shorter):
            lost, purse = self.loss(num_requests, sum(shorter)), self.purse
            fitting: list[int] = []
            for length, room in zip(shorter, rooms, strict=True):
                if length * lost > room:
                    length = int((room + purse) / lost) if room >= 0 else 0
                    purse -= max(length * lost - room, 0.0)
                fitting.append(min(length, shorter[len(fitting)]))
            if fitting == shorter:
                break
            shorter = fitting
        return shorter

    def num_paying(self, step: NextStep, chances: Sequence[float]) -> int:
        """For how many requests another guess of the draft model pays.

        `chances`, falling: how likely each one's guess and those before it are chosen.
        """
        time = self.costs.cost(step.num_tokens) + step.spent
        best, best_count, expected = step.num_expected / time, 0, step.num_expected
        for count, chance in enumerate(chances[: MAX_TOKENS - step.num_tokens], 1):
            expected += chance
            longer = self.costs.cost(step.num_tokens + count) + step.spent
            speed = expected / (longer + self.pass_costs.cost(count))
            if speed > best:
                best, best_count = speed, count
        return best_count

    def speed_up(self, num_requests: int, hit_rate: float) -> float:
        """Expected speed with a draft model's guesses for every request, relative to without."""
        if num_requests >= MAX_TOKENS:
            return 1.0
        step = NextStep(num_requests, num_requests, float(num_requests))
        plain = step.num_expected / self.costs.cost(num_requests)
        best = plain
        for place in range(1, MAX_MODEL_TOKENS + 1):
            step.num_tokens += num_requests
            if step.num_tokens > MAX_TOKENS:
                break
            step.num_expected += num_requests * hit_rate**place
            step.spent += self.pass_costs.cost(num_requests)
            best = max(best, step.num_expected / (self.costs.cost(step.num_tokens) + step.spent))
        return best / plain

    def share(self, cost: float, num_requests: int, num_sharing: int) -> float:
        """What each of `num_sharing` loses by a time in which a step could have been taken."""
        return cost / self.costs.cost(min(num_requests, MAX_TOKENS)) * num_requests / num_sharing

    def observe_alone(self, record: RequestRecord) -> None:
        """A request gained a token without a draft. Mutates: self, record."""
        self.settle(record, LOSS_SHARE)

    def observe_draft(
        self, record: RequestRecord, kind: str, num_drafted: int, num_hits: int, lost: float
    ) -> None:
        """Learn from a draft. `lost`: steps that its rows took. Mutates: self, record."""
        num_tried = min(num_hits + 1, num_drafted)
        self._rates[kind].observe(num_hits, num_tried, fading=0.995)
        record.rates.setdefault(kind, HitRate()).observe(num_hits, num_tried, _FADING)
        self.settle(record, num_hits - lost)
        if record.balance < 0:
            self.purse += record.balance
            record.balance = 0.0

    def settle(self, record: RequestRecord, num_saved: float) -> None:
        """Write down the steps that a draft saved, or lost; the purse has what is too much.

        Mutates: self, record.
        """
        balance = record.balance + num_saved
        record.balance = min(balance, MAX_SAVED)
        self.purse = min(self.purse + balance - record.balance, MAX_PURSE)

    def settle_credit(self, num_saved: float) -> None:
        """The same of a draft model's, for all requests. Mutates: self."""
        self.credit = max(MIN_CREDIT, min(self.credit + num_saved, MAX_CREDIT))
