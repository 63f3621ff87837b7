"""GuessChances: how likely a draft model's guess is chosen, by how sure the model was of it.

In: the probabilities a draft model gave its guesses, and which were right. Out: chances, of one
request where it has shown something of its own. What a request showed fades while nothing is
guessed for it, so that it is tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.spec.hit_rate import HitRate

BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Least probability of each kind of guess."""
# qwen2.5-coder 0.5B for 1.5B, 1,485 tokens of chat at temperature 0 and 0.7.
PRIORS = (0.3, 0.5, 0.6, 0.82, 0.93, 0.99)
FIRST_MEAN = 0.76

_REQUEST_WEIGHT = 6.0
_ENGINE_WEIGHT = 20.0
_REQUEST_FADING = 0.95
_ENGINE_FADING = 0.998
_REST_FADING = 0.995
"""A request that cannot be guessed for is tried again once in some forty tokens."""


@dataclass(slots=True)
class ChanceRecord:
    """What one request's guesses were like."""

    mean: HitRate = field(default_factory=HitRate)
    by_bin: list[HitRate] = field(default_factory=lambda: [HitRate() for _ in BINS])


class GuessChances:
    """One engine's."""

    def __init__(self) -> None:
        self._all = ChanceRecord()

    def mean(self, record: ChanceRecord | None = None) -> float:
        """Of the next guess, before it is made; without a record that of a new request."""
        prior = self._all.mean.rate(FIRST_MEAN, _ENGINE_WEIGHT)
        return prior if record is None else record.mean.rate(prior, _REQUEST_WEIGHT)

    def chance(self, record: ChanceRecord, probability: float) -> float:
        """Of a guess that the draft model gave this probability."""
        place = _bin_of(probability)
        prior = self._all.by_bin[place].rate(PRIORS[place], _ENGINE_WEIGHT)
        return record.by_bin[place].rate(prior, _REQUEST_WEIGHT)

    def observe(self, record: ChanceRecord, probabilities: Sequence[float], num_hits: int) -> None:
        """Learn from guesses of which the first `num_hits` were chosen. Mutates: self, record."""
        for place, probability in enumerate(probabilities[: num_hits + 1]):
            is_hit = int(place < num_hits)
            for known, fading in ((self._all, _ENGINE_FADING), (record, _REQUEST_FADING)):
                known.mean.observe(is_hit, 1, fading)
                known.by_bin[_bin_of(probability)].observe(is_hit, 1, fading)

    def rest(self, record: ChanceRecord) -> None:
        """A token came without a guess. Mutates: self, record."""
        self._all.mean.fade(_ENGINE_FADING)
        for known in (record.mean, *record.by_bin):
            known.fade(_REST_FADING)


def _bin_of(probability: float) -> int:
    return sum(probability >= least for least in BINS) - 1
