"""The plots of a load: how latencies are distributed, and how they went over the run.

In: the JSON object of `load_report`. Out: figures, each a heading, a sentence and an SVG.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from headrace.bench.load_table import in_ms
from headrace.bench.percentile import percentiles
from headrace.bench.svg_plot import Axis, Plot, Point, axis_for
from headrace.core.frozen import frozen
from headrace.core.units import format_number

MS = 1e3
_CURVES = (
    ("ttft", "Time to first token"),
    ("tpot", "Time per output token"),
    ("itl", "Inter-token latency"),
    ("e2e", "End to end"),
)


@frozen
class Figure:
    """A plot and its words."""

    heading: str
    caption: str
    svg: str


def make_figures(report: Mapping[str, Any]) -> list[Figure]:
    """All figures that this run has numbers for."""
    return [*_curves(report), *_over_time(report), *_by_length(report)]


def _curves(report: Mapping[str, Any]) -> Iterator[Figure]:
    limits_s = report["settings"]["slo_s"] or {}
    for name, heading in _CURVES:
        found = report["latency"][f"{name}_s"]
        if found is None:
            continue
        if name == "itl":
            curve_s = report["itl_percentiles_s"]
        else:
            values = [s[f"{name}_s"] for s in report["samples"] if s["failure"] is None]
            curve_s = percentiles([v for v in values if v is not None], range(101))
        points = [(value_s * MS, float(percent)) for percent, value_s in enumerate(curve_s)]
        # Past p99 lies a tail that would squeeze the rest into a corner; the table has the maximum.
        high_ms = max(found["p99"] * 1.15, found["p50"] * 2, 1e-6) * MS
        what = "gaps" if name == "itl" else "requests"
        y = Axis(f"% of {what}", 0, 100)
        plot = Plot(f"{heading}, share of {what}", Axis("ms", 0.0, high_ms), y)
        # The longest gap is limited, not the usual one, so the curve of gaps shows no limit.
        if name in limits_s and name != "itl":
            plot.limit(limits_s[name] * MS, f"limit {format_number(limits_s[name] * MS, 6)} ms")
        plot.line([point for point in points if point[0] <= high_ms], "first")
        for percent in (50, 90, 99):
            plot.mark(found[f"p{percent}"] * MS, percent)
        plot.legend([f"p{p} {in_ms(found[f'p{p}'])} ms" for p in (50, 90, 99)])
        yield Figure(
            heading, f"Share of {found['count']} {what} that took at most so long.", plot.svg()
        )


def _over_time(report: Mapping[str, Any]) -> Iterator[Figure]:
    samples = report["samples"]
    done = [sample for sample in samples if sample["failure"] is None]
    failed = [sample for sample in samples if sample["failure"] is not None]
    x = axis_for("seconds into the run, when the request was due", _all(samples, "scheduled_s"))
    y = axis_for("seconds", [*_all(done, "e2e_s"), *_all(done, "ttft_s")])
    plot = Plot("Latency of each request over the run", x, y)
    plot.dots(_points(done, "scheduled_s", "e2e_s"), "second")
    plot.dots(_points(done, "scheduled_s", "ttft_s"), "first")
    plot.crosses([(sample["scheduled_s"], y.high) for sample in failed], "bad")
    caption = (
        '<span class="key first">●</span> first token, '
        '<span class="key second">●</span> end'
        + (f', <span class="key bad">×</span> failed ({len(failed)})' if failed else "")
        + ". Dots that climb to the right: requests come faster than they are answered."
    )
    yield Figure("Latency over the run", caption, plot.svg())
    counts = in_flight(samples)
    span = axis_for("seconds into the run", [moment_s for moment_s, _ in counts])
    plot = Plot("Requests in flight", span, axis_for("requests", [count for _, count in counts]))
    plot.steps(counts, "first")
    yield Figure("Requests in flight", "Due and not yet ended, failed ones included.", plot.svg())


def _by_length(report: Mapping[str, Any]) -> Iterator[Figure]:
    done = [sample for sample in report["samples"] if sample["failure"] is None]
    lengths = _all(done, "input_tokens")
    if len(set(lengths)) < 2:
        return
    x, y = axis_for("prompt tokens", lengths), axis_for("seconds", _all(done, "ttft_s"))
    plot = Plot("Time to first token by prompt length", x, y)
    plot.dots(_points(done, "input_tokens", "ttft_s"), "first")
    caption = "A slope is the cost of prefill; a spread at one length is waiting."
    yield Figure("First token by prompt length", caption, plot.svg())


def in_flight(samples: Sequence[Mapping[str, Any]]) -> list[Point]:
    """How many requests were due and not ended, at each moment when that changed."""
    changes = [(sample["scheduled_s"], 1) for sample in samples]
    changes += [(sample["end_s"], -1) for sample in samples]
    counts, running = [], 0
    # An end counts before a beginning at the same moment: a place that is taken over is one place.
    for moment_s, change in sorted(changes):
        running += change
        counts.append((float(moment_s), float(running)))
    return counts


def _all(samples: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [sample[name] for sample in samples if sample[name] is not None]


def _points(samples: Sequence[Mapping[str, Any]], x: str, y: str) -> list[Point]:
    return [(s[x], s[y]) for s in samples if s[x] is not None and s[y] is not None]
