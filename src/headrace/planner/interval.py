"""Intervals of quality by the bootstrap: how sure a score is, alone and beside another tier's.

In: a row of numbers per sample and a function from their sums to a score. Out: Intervals. The same
rows give the same interval. Knows no metric.
Source: Efron 1979; for few samples widened as in Hesterberg 2015, What Teachers Should Know About
the Bootstrap, section 5.3 (expanded percentiles).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from headrace.core.frozen import frozen

Rows = npt.NDArray[np.float64]
# From sums over samples [..., k] to scores [...].
Combine = Callable[[Rows], Rows]

NUM_RESAMPLES = 2000
_SEED = 20040
# Counts that are drawn at a time, so that many samples take no more memory than some.
_MOST_DRAWN = 4_000_000
_EQUAL = 1e-12
WORST_SCORE, WORST_DIFFERENCE = 0.0, -1.0


@frozen
class Interval:
    """A score and where it lies with the confidence asked for. `count` samples.

    `is_flat`: they all score the same, so that they show nothing of how others may differ.
    """

    mean: float
    low: float
    high: float
    count: int
    is_flat: bool = False


def drawn_together(rows: Rows, names: Sequence[str]) -> Rows:
    """Sums of the rows that share a name: a resample has all of them or none, as often as it drew.

    Rows that depend on each other prove no more together than one of them does alone.
    Shapes: [n, k] -> [distinct names, k]. Source: Field and Welsh 2007, the cluster bootstrap.
    """
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    sums = np.zeros((len(places), rows.shape[1]))
    np.add.at(sums, [places[name] for name in names], rows)
    return sums


def interval(rows: Rows, combine: Combine, confidence: float) -> Interval:
    """Of one tier. Shapes: rows [n, k]."""
    mean = float(combine(rows.sum(axis=0)))
    return _around(mean, combine(_resampled(rows)), WORST_SCORE, len(rows), confidence)


def paired_difference(rows: Rows, other: Rows, combine: Combine, confidence: float) -> Interval:
    """Of a tier minus another on the same samples: what both find hard cancels out.

    Shapes: rows, other [n, k], a sample in the same place.
    """
    width = rows.shape[1]
    mean = float(combine(rows.sum(axis=0)) - combine(other.sum(axis=0)))
    sums = _resampled(np.hstack([rows, other]))
    scores = combine(sums[:, :width]) - combine(sums[:, width:])
    return _around(mean, scores, WORST_DIFFERENCE, len(rows), confidence)


def count_to_show(found: Interval, floor: float, worst: float, confidence: float) -> int | None:
    """How many samples that score like these would have an interval above a floor; about.

    `worst`: what others might score. None: no number would, as their mean is not above it.
    """
    slack = found.mean - floor
    if slack < _EQUAL:
        return None
    if found.is_flat:
        return math.ceil(_most_others(confidence) * (found.mean - worst) / slack)
    # Four times as many have an interval half as wide.
    return math.ceil(found.count * ((found.mean - found.low) / slack) ** 2)


def _around(mean: float, scores: Rows, least: float, count: int, confidence: float) -> Interval:
    """The middle of the resampled scores, which lie from `least` to 1.

    Where all resamples score the same they would claim certainty; then n samples that agree leave
    room for ln(2/a)/n others (Hanley and Lippman-Hand 1983).
    """
    if np.ptp(scores) < _EQUAL:
        room = min(1.0, _most_others(confidence) / count)
        return Interval(mean, mean - (mean - least) * room, mean + (1 - mean) * room, count, True)
    tail = expanded_tail((1 - confidence) / 2, count)
    low, high = np.quantile(scores, (tail, 1 - tail))
    return Interval(mean, float(low), float(high), count)


def _most_others(confidence: float) -> float:
    return math.log(2 / (1 - confidence))


def expanded_tail(tail: float, count: int) -> float:
    """The percentile of the bootstrap that leaves `tail` out when there are `count` samples.

    Resamples vary less than samples by (n-1)/n, and their spread is an estimate itself, as in the
    t distribution. Its quantile by the series of Abramowitz and Stegun, 26.7.5.
    """
    normal, free = NormalDist(), count - 1
    z = -normal.inv_cdf(tail)
    t = (
        z
        + (z**3 + z) / (4 * free)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    )
    return normal.cdf(-t * math.sqrt(count / free))


def _resampled(rows: Rows) -> Rows:
    """Sums over samples that were drawn with replacement. Shapes: [n, k] -> [NUM_RESAMPLES, k]."""
    count = len(rows)
    generator = np.random.default_rng((_SEED, count))
    share, size = np.full(count, 1 / count), max(1, _MOST_DRAWN // count)
    parts = [
        generator.multinomial(count, share, size=min(size, NUM_RESAMPLES - done)) @ rows
        for done in range(0, NUM_RESAMPLES, size)
    ]
    return np.concatenate(parts)
