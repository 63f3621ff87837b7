"""When calls come: at random, in bursts, or as they once did; over a day that may have a peak.

In: how many, how they come, a seed. Out: moments in ascending order. Units: seconds from the start.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headrace.planner.workload import Arrivals

Moments = npt.NDArray[np.float64]


def draw_arrivals(arrivals: Arrivals, rate_per_s: float, span_s: float, seed: int) -> Moments:
    """All that come within a span, at a mean rate.

    Gaps are independent: exponential for Poisson, gamma with a coefficient of variation of `cv`
    for bursts. Recorded moments are repeated and scaled to the rate, so that only their shape
    stays.
    """
    if arrivals.kind == "recorded":
        return _repeat(arrivals.recorded_s, rate_per_s, span_s)
    generator = np.random.default_rng(seed)
    count = int(rate_per_s * span_s + 6 * arrivals.cv * np.sqrt(rate_per_s * span_s) + 10)
    shape = 1.0 if arrivals.kind == "poisson" else arrivals.cv**-2
    gaps = generator.gamma(shape, 1 / (shape * rate_per_s), count)
    moments = np.cumsum(gaps)
    while moments[-1] < span_s:
        more = generator.gamma(shape, 1 / (shape * rate_per_s), count)
        moments = np.concatenate([moments, moments[-1] + np.cumsum(more)])
    return moments[moments < span_s]


def _repeat(recorded_s: tuple[float, ...], rate_per_s: float, span_s: float) -> Moments:
    """The record, as long as it takes. The mean gap closes it, so that rounds do not collide."""
    record = np.array(recorded_s)
    length_s = record[-1] * len(record) / (len(record) - 1)
    scale = len(record) / length_s / rate_per_s
    rounds = int(np.ceil(span_s / (length_s * scale)))
    moments = np.concatenate([(record + length_s * number) * scale for number in range(rounds)])
    return moments[moments < span_s]
