"""How many tokens to draft: as many as raise the tokens per second that are expected.

In: how often drafts of each kind were right, what steps cost, how many requests share the step.
Out: a number of tokens for each request. A request that drafts have slowed down does without until
the tokens it gained alone have paid for it, so drafting never costs more than a small share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.spec.step_costs import MAX_TOKENS, StepCosts

MAX_DRAFT_TOKENS = 15

LOSS_SHARE = 0.02
"""Of its tokens alone, what a request may lose to drafts that were wrong."""
FIRST_LOSS = 0.3
"""Units: steps. A loss that a request starts with room for."""
MAX_SAVED = 2.0
"""Units: steps. Earlier gains do not pay for more than this of later losses."""

_REQUEST_WEIGHT = 4.0
_ENGINE_WEIGHT = 20.0
_FADING = 0.85


@dataclass(slots=True)
class HitRate:
    """Share of drafted tokens that were chosen, among those whose turn came."""

    num_hits: float = 0.0
    num_tried: float = 0.0

    def rate(self, prior: float, weight: float) -> float:
        return (self.num_hits + weight * prior) / (self.num_tried + weight)

    def observe(self, num_hits: int, num_tried: int, fading: float) -> None:
        self.num_hits = fading * self.num_hits + num_hits
        self.num_tried = fading * self.num_tried + num_tried


@dataclass(slots=True)
class RequestRecord:
    """What drafts did for one request. `balance`: steps they have saved it, less a fading past."""

    balance: float = FIRST_LOSS
    rates: dict[str, HitRate] = field(default_factory=dict)


class DraftLength:
    """Chooses lengths and learns from what came of them. One engine's."""

    def __init__(self, priors: Mapping[str, float]) -> None:
        """`priors`: how often a token of each kind of draft is right, before anything is known."""
        self.costs = StepCosts()
        self._priors = priors
        self._rates = {kind: HitRate() for kind in priors}

    def hit_rate(self, record: RequestRecord, kind: str) -> float:
        """How likely a token of such a draft is chosen, if those before it are."""
        prior = self._rates[kind].rate(self._priors[kind], _ENGINE_WEIGHT)
        return record.rates.get(kind, HitRate()).rate(prior, _REQUEST_WEIGHT)

    def choose(self, num_requests: int, hit_rates: Sequence[tuple[float, int]]) -> list[int]:
        """Tokens to draft for each of some requests, in a step of `num_requests`.

        `hit_rates` are each one's rate and the most it may draft. The step has the tokens that
        bring most: the first of every request before the second of an unlikely one.
        """
        if num_requests >= MAX_TOKENS or not hit_rates:
            return [0] * len(hit_rates)
        offers = sorted(
            (-(rate**place), place, index)
            for index, (rate, limit) in enumerate(hit_rates)
            for place in range(1, min(limit, MAX_DRAFT_TOKENS) + 1)
        )[: MAX_TOKENS - num_requests]
        best, best_count = num_requests / self.costs.cost(num_requests), 0
        expected = float(num_requests)
        for count, (negative_gain, _, _) in enumerate(offers, 1):
            expected -= negative_gain
            speed = expected / self.costs.cost(num_requests + count)
            if speed > best:
                best, best_count = speed, count
        lengths = [0] * len(hit_rates)
        for _, place, index in offers[:best_count]:
            lengths[index] = max(lengths[index], place)
        return lengths

    def observe_alone(self, record: RequestRecord) -> None:
        """A request gained a token without a draft. Mutates: record."""
        record.balance = min(record.balance + LOSS_SHARE, MAX_SAVED)

    def observe_draft(
        self, record: RequestRecord, kind: str, num_drafted: int, num_hits: int, lost: float
    ) -> None:
        """Learn from a draft. `lost`: steps that its rows took. Mutates: self, record."""
        num_tried = min(num_hits + 1, num_drafted)
        self._rates[kind].observe(num_hits, num_tried, fading=0.995)
        record.rates.setdefault(kind, HitRate()).observe(num_hits, num_tried, _FADING)
        record.balance = min(record.balance + num_hits - lost, MAX_SAVED)
