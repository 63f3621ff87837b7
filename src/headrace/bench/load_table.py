"""The report of a load as rows of text, for the terminal and the page.

In: the JSON object of `load_report`. Out: rows. Computes nothing but units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.units import format_number, format_seconds

LATENCY_HEADINGS = ("ms", "mean", "p50", "p90", "p99", "max")
MEASURES = (
    ("ttft_s", "TTFT, time to first token"),
    ("tpot_s", "TPOT, time per output token after it"),
    ("itl_s", "ITL, gap between events with text"),
    ("e2e_s", "end to end"),
)
LATE_CLIENT_S = 0.010
MUCH_CACHED = 0.1


def title_of(report: Mapping[str, Any]) -> str:
    """What was measured, in one line."""
    settings, target = report["settings"], report["target"]
    where = f" at {target['url']}" if target["kind"] == "http" else ""
    how = {
        "latency": "one stream",
        "throughput": f"{settings['concurrency']} at once",
        "serve": f"{settings['rate_per_s']:g} requests/s, Poisson arrivals"
        if settings["rate_per_s"] is not None
        else "",
    }[settings["mode"]]
    return f"{settings['mode']}: {target['model']}{where}, {how}"


def latency_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for each measure, in milliseconds; a dash where nothing was measured."""
    rows = []
    for name, title in MEASURES:
        found = report["latency"][name]
        shown = (
            ("-",) * (len(LATENCY_HEADINGS) - 1)
            if found is None
            else tuple(in_ms(found[key]) for key in LATENCY_HEADINGS[1:])
        )
        rows.append((title, *shown))
    return rows


def fact_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Counts and rates. Failures are rows of their own."""
    requests, rates, tokens = report["requests"], report["rates"], report["tokens"]
    rows = [("requests", f"{requests['finished']} of {requests['total']} finished")]
    for kind, failure in requests["failures"].items():
        rows.append((f"failed: {kind}", f"{failure['count']} ({failure['example']})"))
    rows += [
        ("wall time", format_seconds(report["wall_s"])),
        ("output tokens/s", f"{rates['output_tokens_per_s']:.1f}"),
        ("input and output tokens/s", f"{rates['total_tokens_per_s']:.1f}"),
        ("requests/s", f"{rates['requests_per_s']:.3f}"),
    ]
    if rates["arrivals_per_s"] is not None:
        rows.append(("arrivals/s, as drawn", f"{rates['arrivals_per_s']:.3f}"))
    cached = "" if tokens["cached_input"] is None else f" ({tokens['cached_input']} cached)"
    rows += [
        ("input tokens", f"{tokens['input']}{cached}{_per_request(tokens['input_per_request'])}"),
        ("output tokens", f"{tokens['output']}{_per_request(tokens['output_per_request'])}"),
    ]
    if tokens["output_per_event"] is not None:
        rows.append(("output tokens per event", f"{tokens['output_per_event']:.2f}"))
    if report["goodput"] is not None:
        rows.append(("goodput", _goodput(report["goodput"])))
    return rows


def notes(report: Mapping[str, Any]) -> list[str]:
    """What a reader must know before using the numbers."""
    requests, delay = report["requests"], report["latency"]["send_delay_s"]
    found = []
    if requests["failed"]:
        found.append(
            f"{requests['failed']} of {requests['total']} requests failed; latencies are those of "
            "the rest, goodput counts all."
        )
    if requests["cut_short"]:
        found.append(f"{requests['cut_short']} answers ended before the length that was asked for.")
    found += _cache_note(report)
    if delay["p99"] > LATE_CLIENT_S:
        found.append(
            f"The client sent requests late, p99 {in_ms(delay['p99'])} ms; latencies include it. "
            "Leave it more processor time or lower the rate."
        )
    return found


def _cache_note(report: Mapping[str, Any]) -> list[str]:
    """What a chat template is at the front of every prompt is as good as always cached."""
    tokens, target = report["tokens"], report["target"]
    overhead = target.get("overhead_tokens", 0.0) * report["requests"]["finished"]
    cached = (tokens["cached_input"] or 0) - overhead
    if cached <= MUCH_CACHED * tokens["input"]:
        return []
    return [
        f"{tokens['cached_input']} of {tokens['input']} prompt tokens came out of a cache of "
        "prefixes, so TTFT and throughput are those of prompts that were sent before. "
        + (
            "Leave out --repeat-prompts, or start the server anew."
            if target.get("fresh_words") == 0
            else "The prompts begin alike, or the server had them from another run."
        )
    ]


def _per_request(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    if found["min"] == found["max"]:
        return f", {found['min']:.0f} each"
    return f", {found['min']:.0f} to {found['max']:.0f} each, median {found['p50']:.0f}"


def _goodput(found: Mapping[str, Any]) -> str:
    limits = ", ".join(
        f"{name} <= {format_number(limit * 1e3, 6)} ms" for name, limit in found["slo_s"].items()
    )
    return f"{found['requests_per_s']:.3f} requests/s, {found['share']:.1%} of all ({limits})"


def in_ms(seconds: float) -> str:
    """Milliseconds with three digits, more where they stand before the point."""
    return format_number(seconds * 1e3)
