"""Percentiles are numpy's, and impossible ones are refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bench.percentile import describe, percentile, percentiles

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


@given(VALUES, st.floats(0, 100))
def test_it_is_numpys(values: list[float], percent: float) -> None:
    expected = np.percentile(values, percent)
    assert percentile(values, percent) == pytest.approx(expected, rel=1e-9, abs=1e-6)


@given(VALUES)
def test_all_of_a_distribution_is_numpys(values: list[float]) -> None:
    found = describe(values)
    assert found is not None
    assert (found.count, found.min, found.max) == (len(values), min(values), max(values))
    expected = [np.mean(values), *np.percentile(values, [50, 90, 99])]
    assert [found.mean, found.p50, found.p90, found.p99] == pytest.approx(
        expected, rel=1e-9, abs=1e-6
    )


@given(VALUES)
def test_percentiles_rise_from_least_to_most(values: list[float]) -> None:
    curve = percentiles(values, range(101))
    assert curve[0] == min(values) and curve[-1] == pytest.approx(max(values), rel=1e-12)
    assert all(a <= b or math.isclose(a, b) for a, b in itertools.pairwise(curve))


def test_by_hand() -> None:
    assert percentile([4, 1, 3, 2], 50) == 2.5
    assert percentile([4, 1, 3, 2], 99) == pytest.approx(3.97)
    assert percentile([7], 99) == 7


@pytest.mark.parametrize(
    ("values", "percent"), [([], 50), ([1, math.nan], 50), ([1], -1), ([1], 101), ([1], math.nan)]
)
def test_what_does_not_exist_is_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        percentile(values, percent)


def test_nothing_measured_is_no_distribution() -> None:
    assert describe([]) is None
