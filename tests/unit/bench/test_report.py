"""The table of `headrace bench`."""

from __future__ import annotations

from dataclasses import replace

from headrace.bench.report import BenchReport, Round, Settings, table_rows
from headrace.core.machine import Roof
from headrace.engine.build import WorkPerToken


def test_numbers_of_a_thousand_and_more_have_no_exponent() -> None:
    first = Round(
        Roof(read_bytes_per_s=3e10, int8_ops_per_s=4e12),
        385.0,
        44.31,
        1328.4,
        22.57,
        184.2,
        24.5,
        0.67,
        4.1,
        0.12,
    )
    rounds = (first, replace(first, ttft_ms=999.7), replace(first, ttft_ms=12345.0))
    report = BenchReport(
        "tiny", Settings(), WorkPerToken(stream_bytes=1, body_weights=1, head_weights=1), rounds
    )
    rows = {title: (middle, spread) for title, middle, spread, _ in table_rows(report)}
    assert rows["time to first token, ms"] == ("1328", "1000 to 12345")
    assert rows["decode tokens/s"] == ("44.3", "44.3 to 44.3")
