"""Choosing tokens: filters by definition, draws by probability, the same bits everywhere."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.core.errors import InvalidLogits
from headrace.ops.protocol import Ops
from headrace.ops.reference import sampling
from headrace.ops.reference.exact_math import gumbel, noise_bits, row_key
from headrace.ops.reference.reference_ops import ReferenceOps
from kernels.cases import (
    LOGIT_KINDS,
    SAMPLE_SETTINGS,
    VOCABULARIES,
    SampleSettings,
    logit_rows,
    sample_inputs,
)
from kernels.conftest import Once

Bools = NDArray[np.bool_]
SEEDS = np.array([0, 1, 2**63 + 12345, 2**64 - 1], np.uint64)


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


# -- the definition, with a sort and float64 ------------------------------------------------------


def nucleus(order: np.ndarray, p: np.ndarray, share: float) -> Bools:
    """Tokens, smallest `order` first, until their probabilities reach share."""
    ranked = np.argsort(order, kind="stable")
    reached = np.cumsum(p[ranked]) - p[ranked]
    keep = np.zeros(len(p), bool)
    keep[ranked[reached < share]] = True
    return keep


def defined_filters(row: np.ndarray, settings: SampleSettings) -> Bools:
    """top_k, top_p, min_p, typical_p, each over what the one before left."""
    x = row.astype(np.float64) / settings.temperature
    keep = np.ones(len(x), bool)
    if 0 < settings.top_k < len(x):
        keep[np.argsort(-x, kind="stable")[settings.top_k :]] = False
    if settings.top_p < 1:
        keep &= nucleus(-x, softmax(np.where(keep, x, -np.inf)), settings.top_p)
    if settings.min_p > 0:
        keep &= softmax(x) >= settings.min_p * softmax(x).max()
    if settings.typical_p < 1:
        p = softmax(np.where(keep, x, -np.inf))
        surprise = -np.log(np.where(p > 0, p, 1))
        entropy = (p * surprise).sum()
        oddness = np.where(p > 0, np.abs(surprise - entropy), np.inf)
        keep &= nucleus(oddness, p, settings.typical_p)
    keep[np.argmax(x)] = True
    return keep


@pytest.mark.parametrize("num_tokens", [17, 1000, 32003])
@pytest.mark.parametrize("settings", SAMPLE_SETTINGS, ids=str)
def test_filters_keep_what_their_definition_keeps(
    rng: np.random.Generator, settings: SampleSettings, num_tokens: int
) -> None:
    if settings.temperature == 0:
        pytest.skip("greedy rows have no filters")
    inputs = sample_inputs([settings], SEEDS[:1], np.zeros(1))
    for row in logit_rows(rng, 5, num_tokens, "normal"):
        distances = sampling.scaled_distances(row, inputs.temperature[0])
        kept = sampling.kept_tokens(distances, inputs, 0)
        wanted = defined_filters(row, settings)
        p = softmax(row.astype(np.float64) / settings.temperature)
        # A token on the threshold may fall to either side, and tokens under 2^-31 weigh nothing.
        assert p[kept != wanted].sum() < 1e-3 * p[wanted].sum()
        assert (kept != wanted)[p > 1e-8].sum() <= 1


def test_ties_stay_together() -> None:
    row = np.array([1.0, 3.0, 2.0, 2.0, 2.0, 0.0], np.float32)
    for settings in (SampleSettings("k", top_k=2), SampleSettings("p", top_p=0.6)):
        inputs = sample_inputs([settings], SEEDS[:1], np.zeros(1))
        kept = sampling.kept_tokens(sampling.scaled_distances(row, np.float32(1)), inputs, 0)
        np.testing.assert_array_equal(np.flatnonzero(kept), [1, 2, 3, 4])


# -- draws ----------------------------------------------------------------------------------------


def chi_square_limit(freedom: int) -> float:
    """Value that chance exceeds once in about 30000 (Wilson-Hilferty, 4 standard deviations)."""
    return freedom * (1 - 2 / (9 * freedom) + 4.0 * np.sqrt(2 / (9 * freedom))) ** 3


DRAWN = ("plain", "cold", "hot", "top-k-5", "top-p", "min-p", "typical", "chat", "all")


@pytest.mark.parametrize("settings", [s for s in SAMPLE_SETTINGS if s.name in DRAWN], ids=str)
@pytest.mark.parametrize("vary", ["seeds", "positions"])
def test_draws_have_the_probabilities(
    ops: Ops, rng: np.random.Generator, settings: SampleSettings, vary: str
) -> None:
    draws = 3000
    row = logit_rows(rng, 1, 40, "normal")[0]
    counter = np.arange(draws)
    seeds, positions = (counter, counter * 0 + 5) if vary == "seeds" else (counter * 0 + 9, counter)
    inputs = sample_inputs([settings] * draws, seeds.astype(np.uint64), positions)
    chosen = ops.sample(np.tile(row, (draws, 1)), inputs)
    kept = defined_filters(row, settings)
    assert kept[chosen].all()
    p = softmax(np.where(kept, row.astype(np.float64) / settings.temperature, -np.inf))
    expected = p * draws
    likely = expected >= 8
    observed = np.bincount(chosen, minlength=len(row))
    counts = np.append(observed[likely], observed[~likely].sum())
    wanted = np.append(expected[likely], max(expected[~likely].sum(), 1e-9))
    if wanted[-1] < 8:
        counts, wanted = counts[:-1], wanted[:-1]
    if len(counts) > 1:
        assert ((counts - wanted) ** 2 / wanted).sum() < chi_square_limit(len(counts) - 1)


def test_neighbouring_positions_and_seeds_are_independent(ops: Ops) -> None:
    draws = 3000
    settings = [SampleSettings("plain")] * draws
    row = np.zeros((draws, 4), np.float32)
    counter = np.arange(draws)
    first = ops.sample(row, sample_inputs(settings, counter.astype(np.uint64), counter * 0))
    for seeds, positions in ((counter, counter * 0 + 1), (counter + 1, counter * 0)):
        inputs = sample_inputs(settings, seeds.astype(np.uint64), positions)
        second = ops.sample(row, inputs)
        pairs = np.bincount(first * 4 + second, minlength=16)
        expected = draws / 16
        assert ((pairs - expected) ** 2 / expected).sum() < chi_square_limit(15)


def test_noise_is_gumbel() -> None:
    noise = np.sort(gumbel(noise_bits(np.arange(200_000), row_key(7, 11))).astype(np.float64))
    distribution = np.exp(-np.exp(-noise))
    steps = np.arange(len(noise)) / len(noise)
    assert np.abs(distribution - steps).max() < 2.2 / np.sqrt(len(noise))  # Kolmogorov, 1 in 8000


def test_noise_of_extreme_bits_is_finite() -> None:
    bits = np.array([0, 1, 2**30, 2**30 - 1, 2**31, 2**32 - 2, 2**32 - 1], np.uint32)
    noise = gumbel(bits)
    v = (bits | 1).astype(np.float64) * 2.0**-32
    np.testing.assert_allclose(noise, -np.log(-np.log1p(-v)), rtol=3e-6, atol=1e-6)


# -- the same token everywhere --------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOGIT_KINDS)
@pytest.mark.parametrize("num_tokens", VOCABULARIES)
def test_every_tier_chooses_the_token_of_the_reference(
    cpu_ops: Ops, rng: np.random.Generator, once: Once, num_tokens: int, kind: str
) -> None:
    settings, reference = list(SAMPLE_SETTINGS), ReferenceOps(np.float32)
    logits = logit_rows(rng, len(settings), num_tokens, kind)
    for seed in SEEDS:
        seeds = np.full(len(settings), seed, np.uint64)
        inputs = sample_inputs(settings, seeds, rng.integers(0, 10**6, len(settings)))
        expected = once(partial(reference.sample, logits, inputs), str(seed))
        before = logits.copy()
        np.testing.assert_array_equal(cpu_ops.sample(logits, inputs), expected)
        np.testing.assert_array_equal(logits, before)


def test_a_row_does_not_see_its_neighbours(ops: Ops, rng: np.random.Generator) -> None:
    settings = list(SAMPLE_SETTINGS)
    logits = logit_rows(rng, len(settings), 5000, "normal")
    seeds, positions = rng.integers(0, 2**63, len(settings)), np.arange(len(settings))
    whole = ops.sample(logits, sample_inputs(settings, seeds, positions))
    order = rng.permutation(len(settings))
    shuffled = sample_inputs([settings[s] for s in order], seeds[order], positions[order])
    np.testing.assert_array_equal(ops.sample(logits[order], shuffled), whole[order])
    for s in (0, 7, len(settings) - 1):
        alone = sample_inputs([settings[s]], seeds[s : s + 1], positions[s : s + 1])
        assert ops.sample(logits[s : s + 1].copy(), alone)[0] == whole[s]


def test_no_rows(ops: Ops) -> None:
    none = np.zeros(0)
    result = ops.sample(np.zeros((0, 50), np.float32), sample_inputs([], none, none))
    assert result.shape == (0,)
    assert result.dtype == np.int32


@pytest.mark.parametrize("num_tokens", VOCABULARIES)
def test_greedy_takes_the_lowest_id_of_the_best(
    ops: Ops, rng: np.random.Generator, num_tokens: int
) -> None:
    logits = logit_rows(rng, 8, num_tokens, "ties")
    greedy = SampleSettings("greedy", temperature=0.0, top_k=3, top_p=0.1)
    inputs = sample_inputs([greedy] * 8, np.zeros(8), np.zeros(8))
    np.testing.assert_array_equal(ops.sample(logits, inputs), logits.argmax(axis=1))


@pytest.mark.parametrize("settings", SAMPLE_SETTINGS, ids=str)
@pytest.mark.parametrize("place", [0, 17, 99])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_logits_are_named(
    ops: Ops, rng: np.random.Generator, settings: SampleSettings, place: int, value: float
) -> None:
    logits = logit_rows(rng, 3, 100, "normal")
    logits[1, place] = value
    with pytest.raises(InvalidLogits, match="row 1 hold") as caught:
        ops.sample(logits, sample_inputs([settings] * 3, np.zeros(3), np.zeros(3)))
    assert caught.value.rows == (1,)


def test_nothing_left_to_choose(ops: Ops) -> None:
    logits = np.full((2, 33), -np.inf, np.float32)
    with pytest.raises(InvalidLogits, match="row 0, 1"):
        settings = [SampleSettings("plain"), SampleSettings("greedy", temperature=0.0)]
        ops.sample(logits, sample_inputs(settings, np.zeros(2), np.zeros(2)))
