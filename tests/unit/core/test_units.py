"""Bytes, seconds and counts as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import ConfigError
from headrace.core.units import (
    format_bytes,
    format_count,
    format_number,
    format_seconds,
    parse_bytes,
)


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("2GiB", 2 * 1024**3),
        ("500MB", 500 * 10**6),
        ("1.5 GiB", 3 * 512 * 1024**2),
        (" 0.5gib ", 512 * 1024**2),
        ("4g", 4 * 1024**3),
        ("7", 7),
        (7, 7),
        ("7 B", 7),
        ("0", 0),
        (".5k", 512),
        ("0.1kB", 100),
    ],
)
def test_parse_bytes(text: str | int, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes


@pytest.mark.parametrize(
    "value",
    [
        "",
        "GiB",
        "2 GiBs",
        "-1",
        -1,
        "1e9",
        "1.5",
        "1.5B",
        "2,5GiB",
        "٣GiB",
        "inf",
        "9" * 30,
        "1 2GiB",
        True,
        1.5,
        None,
    ],
)
def test_parse_bytes_refuses(value: object) -> None:
    with pytest.raises(ConfigError) as failure:
        parse_bytes(value, "HEADRACE_MEMORY")  # type: ignore[arg-type]
    assert failure.value.field == "HEADRACE_MEMORY"
    assert failure.value.value == value


@given(st.integers(0, 2**62))
def test_format_bytes_is_close_to_what_it_says(num_bytes: int) -> None:
    shown = format_bytes(num_bytes)
    number, unit = shown.split()
    assert parse_bytes(f"{number}{unit}") == pytest.approx(num_bytes, rel=0.05, abs=0.5)
    assert len(number) <= 6 or unit == "TiB"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (491400064, "468.6 MiB"),
        (-2048, "-2.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
    ],
)
def test_format_bytes(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.085, "85 ms"),
        (0.9999, "1.0 s"),
        (3.2, "3.2 s"),
        (59.99, "1 min 00 s"),
        (245.0, "4 min 05 s"),
        (7800.0, "2 h 10 min"),
        (-1.0, "-1.0 s"),
    ],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (950, "950"),
        (32768, "32.8K"),
        (999_960, "1M"),
        (1_543_714_304, "1.5B"),
        (-1500, "-1.5K"),
    ],
)
def test_format_count(count: int, text: str) -> None:
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0000123, "0.0000123"),
        (0.5, "0.5"),
        (44.04, "44"),
        (-12.34, "-12.3"),
        (999.4, "999"),
        (999.6, "1000"),
        (1334.2, "1334"),
        (23456.0, "23456"),
    ],
)
def test_a_number_has_no_exponent(value: float, text: str) -> None:
    assert format_number(value) == text


def test_a_price_has_four_digits() -> None:
    assert format_number(0.00012346, 4) == "0.0001235"
