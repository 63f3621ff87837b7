"""How sure a mean over the tokens of a text is, and how sure a difference of two.

In: what was measured at each token. Out: 95 % intervals. Neighbouring tokens share their context,
so blocks of them are drawn, with replacement, and not tokens. The same blocks are drawn for both
sides of a difference: what is hard for one method is hard for the other.
Source: Künsch 1989, doi 10.1214/aos/1176347265, the block bootstrap; percentiles of the draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BLOCK_TOKENS = 64
DRAWS = 4000
Interval = tuple[float, float]
Windows = Sequence[NDArray[np.floating] | NDArray[np.bool_]]
"""Of each window of the texts, what was measured at its tokens."""


def interval(windows: Windows) -> Interval:
    """Of the mean over all tokens."""
    return _percentiles(_means(windows))


def interval_of_ratio(windows: Windows, others: Windows) -> Interval:
    """Of one mean over the other, measured at the same tokens."""
    return _percentiles(_means(windows) / _means(others))


def interval_of_difference(windows: Windows, others: Windows) -> Interval:
    """Of one mean less the other, measured at the same tokens."""
    return _percentiles(_means(windows) - _means(others))


def _means(windows: Windows) -> NDArray[np.float64]:
    """Means of the draws, the same draws for windows of the same lengths. Shapes: -> [DRAWS]."""
    starts = [np.arange(0, len(window), BLOCK_TOKENS) for window in windows]
    pairs = list(zip(windows, starts, strict=True))
    sums = np.concatenate([np.add.reduceat(w.astype(np.float64), at) for w, at in pairs])
    sizes = np.concatenate([np.add.reduceat(np.ones(len(w)), at) for w, at in pairs])
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    means: NDArray[np.float64] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means


def _percentiles(draws: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)
