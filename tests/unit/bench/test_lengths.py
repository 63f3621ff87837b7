"""Lengths: what people write, and how they are drawn."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.bench.lengths import Lengths, parse_lengths
from headrace.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "low", "high", "is_logarithmic"),
    [("128", 128, 128, False), (" 32..512 ", 32, 512, False), ("log:1..2048", 1, 2048, True)],
)
def test_reads(text: str, low: int, high: int, is_logarithmic: bool) -> None:
    lengths = parse_lengths(text, "--x")
    assert lengths == Lengths(low, high, is_logarithmic)
    assert parse_lengths(str(lengths), "--x") == lengths


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", ""),
        ("many", ""),
        ("-5", ""),
        ("1.5", ""),
        ("32-512", ""),
        ("0", "The shortest is 1 token."),
        ("9..3", "3 is less than 9; swap them."),
        ("log:32", "A logarithmic range has two ends."),
        ("9" * 30, ""),
    ],
)
def test_refuses(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_lengths(text, "--prompt-tokens")
    assert refused.value.message.startswith(f"--prompt-tokens is {text!r}; allowed: a number of")
    assert refused.value.hint == hint


@given(st.integers(1, 5000), st.integers(0, 5000), st.booleans(), st.integers(0, 2**32))
def test_draws_stay_inside(low: int, more: int, is_logarithmic: bool, seed: int) -> None:
    lengths = Lengths(low, low + more, is_logarithmic)
    assert low <= lengths.draw(random.Random(seed)) <= low + more


def test_both_ends_come_and_halves_are_as_said() -> None:
    source = random.Random(1)
    even = [Lengths(1, 8).draw(source) for _ in range(4000)]
    assert set(even) == set(range(1, 9))
    assert sum(even) / len(even) == pytest.approx(4.5, abs=0.15)
    doublings = [Lengths(16, 1024, is_logarithmic=True).draw(source) for _ in range(4000)]
    # Three of six doublings lie below 128.
    assert sum(length < 128 for length in doublings) / 4000 == pytest.approx(0.5, abs=0.03)
