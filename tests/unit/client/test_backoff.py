"""Waits between tries: bounds, what the server asks for, and the spread."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.client.backoff import FIRST_BOUND_S, MOST_BOUND_S, backoff_s, read_retry_after

NOW_S = 1_763_769_600.0  # 2025-11-22T00:00:00Z


@given(st.integers(1, 10_000), st.integers(0, 2**32))
def test_a_wait_is_within_a_bound_that_doubles(num_failures: int, seed: int) -> None:
    wait_s = backoff_s(num_failures, None, random.Random(seed).uniform)
    assert 0 <= wait_s <= min(MOST_BOUND_S, FIRST_BOUND_S * 2 ** (min(num_failures, 64) - 1))


@given(st.integers(1, 100), st.floats(0, 120), st.integers(0, 2**32))
def test_no_wait_is_shorter_than_the_server_asks(
    num_failures: int, asked_s: float, seed: int
) -> None:
    wait_s = backoff_s(num_failures, asked_s, random.Random(seed).uniform)
    assert asked_s <= wait_s <= asked_s * 1.1 + FIRST_BOUND_S


def test_waits_are_spread_over_the_whole_bound() -> None:
    chance = random.Random(1)
    waits = [backoff_s(3, None, chance.uniform) for _ in range(2000)]
    assert min(waits) < 0.05
    assert max(waits) > 0.95
    assert 0.45 < sum(waits) / len(waits) < 0.55


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after": "Sat, 22 Nov 2025 00:00:30 GMT"}, 30.0),
        ({"retry-after": "Fri, 21 Nov 2025 00:00:30 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    assert read_retry_after(headers, NOW_S) == expected
