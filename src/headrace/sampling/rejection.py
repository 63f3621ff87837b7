"""Rejection: keeps a guess that another model drew as often as the two distributions allow.

In: a row's logits with the parameters it is drawn by; a guess, with the distribution that it was
drawn from. Out: the guess, or another token: over the noise, each as often as the row's own
distribution has it. The noise is a function of (seed, position) and its use, so equal guesses give
equal tokens. Knows nothing of models or steps.
Source: arXiv 2211.17192, section 2.3 and appendix A.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.core.frozen import frozen
from headrace.ops.reference.exact_math import exp32, row_key
from headrace.ops.reference.sampling import kept_tokens, scaled_distances
from headrace.ops.step_inputs import Float32, SampleInputs

Float64 = NDArray[np.float64]

NO_MASS = np.float32(-21.6)
"""Further below the best a token has no mass in top_p and typical_p: sampling.MASS_UNIT."""
LEAST_MIN_P = 1e-8
"""From here on min_p leaves nothing that is further below than NO_MASS."""

# What a number is drawn for: streams of noise beside that of plain sampling.
_KEEP, _REST, _GUESS = 0x6B656570, 0x72657374, 0x67756573
_MIXER = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


@frozen
class Distribution:
    """Tokens that can be drawn, ids ascending, and how likely each is."""

    token_ids: NDArray[np.intp]
    chances: Float64

    def chance(self, token_id: int) -> float:
        """Of one token; 0 for those that cannot be drawn."""
        place = int(np.searchsorted(self.token_ids, token_id))
        is_there = place < len(self.token_ids) and self.token_ids[place] == token_id
        return float(self.chances[place]) if is_there else 0.0

    def chances_of(self, token_ids: NDArray[np.intp]) -> Float64:
        """Of some tokens."""
        places = np.searchsorted(self.token_ids, token_ids)
        places[places == len(self.token_ids)] = 0
        is_there = self.token_ids[places] == token_ids
        return np.where(is_there, self.chances[places], 0.0)


@frozen
class DrawnGuess:
    """A token, and what it was drawn from."""

    token_id: int
    distribution: Distribution


class DrawnGuesses(Protocol):
    """Where guesses that were drawn are kept until their position is settled."""

    def drawn(self, request_id: str, token_ids: Sequence[int]) -> DrawnGuess | None:
        """What was drawn for the place after these tokens, which a step has chosen so far."""
        ...


def distribution(row: Float32, inputs: SampleInputs, s: int) -> Distribution:
    """What `Ops.sample` draws row s from. `row`: its logits, adjusted. Shapes: row [V].

    Not for greedy rows, nor for rows from which nothing can be drawn.
    """
    distances = scaled_distances(row, inputs.temperature[s])
    ids = np.flatnonzero(distances >= NO_MASS)
    if _keeps_others(inputs, s, len(ids)):
        ids = np.arange(len(distances))
    distances = distances[ids]
    kept = np.flatnonzero(kept_tokens(distances, inputs, s))
    weights = exp32(distances[kept]).astype(np.float64)
    return Distribution(ids[kept], weights / np.add.accumulate(weights)[-1])


def _keeps_others(inputs: SampleInputs, s: int, num_likely: int) -> bool:
    """Whether tokens without mass can be drawn too."""
    if inputs.top_p[s] < 1 or inputs.typical_p[s] < 1 or inputs.min_p[s] >= LEAST_MIN_P:
        return False
    return not 0 < inputs.top_k[s] <= num_likely


def decide(own: Distribution, guess: DrawnGuess, seed: int, position: int) -> int:
    """Keep the guess with the chance min(1, p/q), else draw from what p has more than q."""
    chance = guess.distribution.chance(guess.token_id)
    if _uniform(seed, position, _KEEP) * chance < own.chance(guess.token_id):
        return guess.token_id
    rest = np.maximum(own.chances - guess.distribution.chances_of(own.token_ids), 0.0)
    sums = np.add.accumulate(rest)
    if sums[-1] <= 0:  # equal but for rounding
        sums = np.add.accumulate(own.chances)
    mark = _uniform(seed, position, _REST) * sums[-1]
    place = int(np.searchsorted(sums, mark, side="right"))
    return int(own.token_ids[min(place, len(sums) - 1)])


def guess_seed(seed: int, num_known_tokens: int) -> int:
    """Seed of guesses made when so many tokens were known.

    None of them shares its noise with a token that is drawn without it, or with one that was
    guessed at the same position after other tokens.
    """
    return _mixed(seed, _GUESS + (num_known_tokens << 32))


def _uniform(seed: int, position: int, use: int) -> float:
    """At least 0, less than 1."""
    low, high = row_key(_mixed(seed, use), position)
    return float((high << 32 | low) >> 11) * 2.0**-53


def _mixed(seed: int, use: int) -> int:
    low, high = row_key(seed, use)
    return (high << 32 | low) * _MIXER & _MASK64
