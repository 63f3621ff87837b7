"""Durations: with a unit, or not at all."""

from __future__ import annotations

import pytest

from headrace.bench.duration import parse_seconds
from headrace.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1.5 s", 1.5), (" 2min ", 120.0), (".5h", 1800.0), ("20us", 2e-5), ("0s", 0)],
)
def test_reads(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1e3s", "1m", "1 s 2 ms", "inf s", "٣s"])
def test_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--timeout is .*allowed: a number with a unit among us"):
        parse_seconds(text, "--timeout")
