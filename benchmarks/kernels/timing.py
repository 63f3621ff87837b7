"""Timing shared by the kernel benchmarks: alternate, take medians, print tables and a record."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def alternate(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, one after another in every round, after a round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_index in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_index:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median and spread. Units: microseconds."""
    return {
        "median_us": round(statistics.median(seconds) * 1e6, 2),
        "min_us": round(min(seconds) * 1e6, 2),
        "max_us": round(max(seconds) * 1e6, 2),
    }


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Names to the left, everything after them to the right."""
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    for row in (columns, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))


def print_record(name: str, settings: Mapping[str, Any], results: Any) -> None:
    """The last line of a benchmark: one JSON object."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    ).stdout.strip()
    machine = {"cpu": platform.processor() or platform.machine(), "commit": commit}
    print(json.dumps({"benchmark": name, **machine, **settings, "results": results}))
