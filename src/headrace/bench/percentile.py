"""Percentiles, in one place: every p50, p90 and p99 that headrace prints is made here.

In: numbers of one kind. Out: a percentile, or the Distribution that reports show. Between two
values it goes along the straight line, as numpy's default does. Knows no unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from headrace.core.frozen import frozen


@frozen
class Distribution:
    """What a report says about many numbers. `count` is how many there were."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p99: float
    max: float


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of 100 lie, on the line between the two nearest ranks.

    Raises: ValueError for no values, a value that is NaN, or a percent outside 0 to 100.
    Source: Hyndman and Fan 1996, definition 7; numpy.percentile(method="linear").
    """
    return _percentile_of_sorted(_sorted(values), percent)


def percentiles(values: Sequence[float], percents: Sequence[float]) -> list[float]:
    """Several percentiles of the same values."""
    ordered = _sorted(values)
    return [_percentile_of_sorted(ordered, percent) for percent in percents]


def describe(values: Sequence[float]) -> Distribution | None:
    """All that a report shows of these values; None when there are none."""
    if not values:
        return None
    p50, p90, p99 = percentiles(values, (50, 90, 99))
    return Distribution(
        count=len(values),
        mean=math.fsum(values) / len(values),
        min=min(values),
        p50=p50,
        p90=p90,
        p99=p99,
        max=max(values),
    )


def _sorted(values: Sequence[float]) -> list[float]:
    if not values:
        raise ValueError("a percentile of no values does not exist")
    if any(math.isnan(value) for value in values):
        raise ValueError("a percentile of NaN does not exist")
    return sorted(values)


def _percentile_of_sorted(ordered: Sequence[float], percent: float) -> float:
    if not 0 <= percent <= 100:
        raise ValueError(f"percent is {percent}; allowed: 0 to 100")
    rank = (len(ordered) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)
