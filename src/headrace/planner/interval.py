"""Intervals of quality by the bootstrap: how sure a score is, alone and beside another tier's.

In: a row of numbers per sample and a function from their sums to a score. Out: Intervals. The same
rows give the same interval. Knows no metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float64]
# From sums over samples [..., k] to scores [...].
Combine = Callable[[Rows], Rows]

NUM_RESAMPLES = 2000
_SEED = 20040


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and where it lies with the confidence asked for. `count` samples."""

    mean: float
    low: float
    high: float
    count: int


def interval(rows: Rows, combine: Combine, confidence: float) -> Interval:
    """Of one tier.

    Shapes: rows [n, k].
    Source: Efron 1979, the percentile bootstrap. Where all rows are equal it would claim certainty;
    then n equal samples leave room for ln(2/a)/n others (Hanley and Lippman-Hand 1983).
    """
    count = len(rows)
    mean = float(combine(rows.sum(axis=0)))
    if (rows == rows[0]).all():
        room = min(1.0, math.log(2 / (1 - confidence)) / count)
        return Interval(mean, mean * (1 - room), mean + (1 - mean) * room, count)
    low, high = _ends(combine(_draws(count) @ rows), confidence)
    return Interval(mean, low, high, count)


def paired_difference(rows: Rows, other: Rows, combine: Combine, confidence: float) -> Interval:
    """Of a tier minus another on the same samples: what both find hard cancels out.

    Shapes: rows, other [n, k], a sample in the same place.
    """
    count = len(rows)
    draws = _draws(count)
    mean = float(combine(rows.sum(axis=0)) - combine(other.sum(axis=0)))
    low, high = _ends(combine(draws @ rows) - combine(draws @ other), confidence)
    if (rows == other).all():
        room = min(1.0, math.log(2 / (1 - confidence)) / count)
        low, high = -room, room
    return Interval(mean, low, high, count)


def _draws(count: int) -> Rows:
    """How often each sample is in each resample, [NUM_RESAMPLES, n]."""
    generator = np.random.default_rng((_SEED, count))
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=NUM_RESAMPLES)
    return drawn.astype(np.float64)


def _ends(scores: Rows, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(scores, (tail, 1 - tail))
    return float(low), float(high)
