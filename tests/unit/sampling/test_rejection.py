"""Rejection: what comes out has the row's own distribution, whatever was guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.core.request import SamplingParams
from headrace.core.step import NewRequest
from headrace.ops.reference.exact_math import exp32
from headrace.ops.reference.sampling import kept_tokens, sample, scaled_distances
from headrace.ops.step_inputs import Float32, SampleInputs
from headrace.sampling.rejection import (
    Distribution,
    DrawnGuess,
    decide,
    distribution,
    guess_seed,
)
from headrace.sampling.sample_rows import SampleGatherer, make_row

VOCAB_SIZE = 600
NUM_DRAWS = 3000


def inputs_of(seed: int = 0, position: int = 9, **sampling: Any) -> SampleInputs:
    row = make_row(NewRequest("a", (1,), SamplingParams(**sampling), seed), VOCAB_SIZE)
    return SampleGatherer().gather([row], [position], VOCAB_SIZE)


def random_logits(seed: int, spread: float = 6.0) -> Float32:
    row = np.random.default_rng(seed).normal(0, spread, VOCAB_SIZE).astype(np.float32)
    row[::7] = -np.inf
    return row


def of(*chances: float) -> Distribution:
    """A distribution of tokens 10, 11, and so on; those without a chance are not in it."""
    ids = np.array([10 + place for place, chance in enumerate(chances) if chance])
    return Distribution(ids, np.array([chance for chance in chances if chance]))


def chi_square(counts: np.ndarray, chances: np.ndarray) -> tuple[float, float]:
    """The statistic and a bound that one in 10,000 fair experiments passes (Wilson, Hilferty)."""
    expected = chances * counts.sum()
    likely = expected > 0
    assert not counts[~likely].any()
    value = float((((counts - expected) ** 2)[likely] / expected[likely]).sum())
    degrees = int(likely.sum()) - 1
    share = 2 / (9 * degrees)
    return value, degrees * (1 - share + 3.72 * share**0.5) ** 3


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.3},
        {"temperature": 1.6, "top_p": 0.9},
        {"top_k": 12},
        {"top_k": 590, "temperature": 0.2},
        {"top_p": 0.97, "top_k": 40, "temperature": 0.7},
        {"min_p": 0.02},
        {"min_p": 1e-12, "temperature": 0.2},
        {"typical_p": 0.8},
        {"typical_p": 0.9, "min_p": 0.001, "top_p": 0.99, "top_k": 300},
    ],
)
def test_it_is_what_sampling_draws_from(sampling: dict[str, Any]) -> None:
    inputs = inputs_of(**sampling)
    for seed in range(4):
        row = random_logits(seed)
        distances = scaled_distances(row, inputs.temperature[0])
        weights = np.where(kept_tokens(distances, inputs, 0), exp32(distances), 0).astype(float)
        found = distribution(row, inputs, 0)
        dense = np.zeros(VOCAB_SIZE)
        dense[found.token_ids] = found.chances
        np.testing.assert_allclose(dense, weights / weights.sum(), rtol=1e-12)
        assert np.array_equal(dense > 0, weights > 0)


def test_what_is_sampled_has_it() -> None:
    """The guess and its distribution belong together: one is drawn by the ops."""
    row = random_logits(1, spread=2.0)
    inputs = [inputs_of(seed, temperature=0.9, top_k=9) for seed in range(NUM_DRAWS)]
    counts = np.bincount(
        [sample(row[None].copy(), each)[0] for each in inputs], minlength=VOCAB_SIZE
    )
    found = distribution(row, inputs[0], 0)
    dense = np.zeros(VOCAB_SIZE)
    dense[found.token_ids] = found.chances
    value, bound = chi_square(counts, dense)
    assert value < bound


PAIRS = {
    "alike": (of(0.5, 0.3, 0.15, 0.05), of(0.45, 0.33, 0.17, 0.05)),
    "surer": (of(0.5, 0.3, 0.15, 0.05), of(0.97, 0.01, 0.01, 0.01)),
    "other order": (of(0.1, 0.2, 0.3, 0.4), of(0.4, 0.3, 0.2, 0.1)),
    "fewer guesses": (of(0.25, 0.25, 0.25, 0.25), of(0, 0.5, 0, 0.5)),
    "fewer tokens": (of(0, 0.5, 0.5, 0), of(0.25, 0.25, 0.25, 0.25)),
    "nothing shared": (of(0.6, 0.4, 0, 0), of(0, 0, 0.5, 0.5)),
    "the same": (of(0.7, 0.2, 0.1, 0), of(0.7, 0.2, 0.1, 0)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_chi_square_and_how_many_are_kept(name: str) -> None:
    own, other = PAIRS[name]
    drawn = np.random.default_rng(5).choice(other.token_ids, NUM_DRAWS, p=other.chances)
    found = np.array(
        [
            decide(own, DrawnGuess(int(token_id), other), seed=seed, position=4)
            for seed, token_id in enumerate(drawn)
        ]
    )
    ids = np.arange(10, 14)
    value, bound = chi_square(np.bincount(found - 10, minlength=4), own.chances_of(ids))
    assert value < bound
    total_variation = np.abs(own.chances_of(ids) - other.chances_of(ids)).sum() / 2
    assert (found == drawn).mean() == pytest.approx(1 - total_variation, abs=0.03)


def test_the_statistic_finds_what_is_wrong() -> None:
    """Keeping each guess that can be drawn is not sampling."""
    own, other = PAIRS["surer"]
    drawn = np.random.default_rng(5).choice(other.token_ids, NUM_DRAWS, p=other.chances)
    value, bound = chi_square(np.bincount(drawn - 10, minlength=4), own.chances)
    assert value > 10 * bound


def test_equal_guesses_give_equal_tokens() -> None:
    own, other = PAIRS["other order"]
    guess = DrawnGuess(10, other)
    once = [decide(own, guess, seed, position) for seed in range(20) for position in range(5)]
    again = [decide(own, guess, seed, position) for seed in range(20) for position in range(5)]
    assert once == again
    assert set(once) == {10, 12, 13}  # 11 is guessed more often than it is said


def test_guesses_share_no_noise_with_answers_nor_with_other_guesses() -> None:
    row = np.zeros(VOCAB_SIZE, dtype=np.float32)
    seeds = (7, guess_seed(7, 20), guess_seed(7, 21), guess_seed(8, 20))
    chosen = [
        [int(sample(row[None].copy(), inputs_of(seed, at))[0]) for at in range(40)]
        for seed in seeds
    ]
    for index, one in enumerate(chosen):
        for other in chosen[index + 1 :]:
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 4
