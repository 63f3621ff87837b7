"""What a load showed: counts, rates, latency percentiles, goodput; failures stand beside them.

In: settings, what was measured, the outcomes. Out: one JSON object of a documented form
(docs/guides/benchmarking.md); tables and the page are made from it, so it holds all they show.
Units: seconds, tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from headrace.bench.lengths import Lengths
from headrace.bench.outcome import Outcome
from headrace.bench.percentile import describe, percentiles
from headrace.bench.slo import Slo
from headrace.core.frozen import frozen

Mode = Literal["latency", "throughput", "serve"]
KIND = "headrace bench load"
SCHEMA_VERSION = 1
"""Raised when a field of the JSON object changes its meaning or goes, not when one is added."""


@frozen(kw_only=True)
class LoadSettings:
    """What was asked for. `concurrency` belongs to closed loops, `rate_per_s` to open ones."""

    mode: Mode
    num_requests: int
    concurrency: int | None
    rate_per_s: float | None
    seed: int
    prompt_tokens: Lengths | None
    output_tokens: Lengths
    prompts_file: str | None
    ignore_eos: bool
    timeout_s: float
    slo: Slo | None

    def as_json(self) -> dict[str, Any]:
        """Lengths as a person writes them, limits by name."""
        return {
            "mode": self.mode,
            "num_requests": self.num_requests,
            "concurrency": self.concurrency,
            "rate_per_s": self.rate_per_s,
            "seed": self.seed,
            "prompt_tokens": None if self.prompt_tokens is None else str(self.prompt_tokens),
            "output_tokens": str(self.output_tokens),
            "prompts_file": self.prompts_file,
            "ignore_eos": self.ignore_eos,
            "timeout_s": self.timeout_s,
            "slo_s": None if self.slo is None else dict(self.slo.limits_s),
        }


def summarize(
    settings: LoadSettings,
    outcomes: Sequence[Outcome],
    target: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """The JSON object of a run. Latencies are those of requests that finished."""
    begin_s = min(outcome.scheduled_s for outcome in outcomes)
    wall_s = max(outcome.end_s for outcome in outcomes) - begin_s
    finished = [outcome for outcome in outcomes if outcome.is_finished]
    gaps_s = [gap for outcome in finished for gap in outcome.itl_s]
    tokens = _count_tokens(finished)
    return {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        **environment,
        "target": dict(target),
        "settings": settings.as_json(),
        "requests": _count_requests(outcomes),
        "wall_s": _rounded(wall_s),
        "tokens": tokens,
        "rates": _rates(settings, outcomes, len(finished), tokens, wall_s),
        "latency": {
            "ttft_s": _described(outcome.ttft_s for outcome in finished),
            "tpot_s": _described(outcome.tpot_s for outcome in finished),
            "itl_s": _described(gaps_s),
            "e2e_s": _described(outcome.e2e_s for outcome in finished),
            "send_delay_s": _described(outcome.send_delay_s for outcome in outcomes),
        },
        "itl_percentiles_s": [_rounded(v) for v in percentiles(gaps_s, range(101))]
        if gaps_s
        else None,
        "goodput": _goodput(settings.slo, outcomes, wall_s),
        "samples": [_sample(outcome) for outcome in outcomes],
    }


def _count_requests(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    failures: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        if outcome.failure is not None:
            first = {"count": 0, "example": outcome.failure.message}
            failures.setdefault(outcome.failure.kind, first)["count"] += 1
    num_failed = sum(failure["count"] for failure in failures.values())
    return {
        "total": len(outcomes),
        "finished": len(outcomes) - num_failed,
        "failed": num_failed,
        "failures": dict(sorted(failures.items(), key=lambda item: -item[1]["count"])),
        "cut_short": sum(_is_cut_short(outcome) for outcome in outcomes),
    }


def _is_cut_short(outcome: Outcome) -> bool:
    """Ended by itself before the length that was asked for."""
    has_count = outcome.is_finished and outcome.output_tokens is not None
    return has_count and (outcome.output_tokens or 0) < outcome.asked_output_tokens


def _count_tokens(finished: Sequence[Outcome]) -> dict[str, Any]:
    """Of finished requests; what no server said is None."""
    cached = [outcome.cached_input_tokens for outcome in finished]
    num_output = sum(outcome.output_tokens or 0 for outcome in finished)
    num_events = sum(len(outcome.event_s) for outcome in finished)
    return {
        "input": sum(outcome.input_tokens or 0 for outcome in finished),
        "cached_input": None if None in cached else sum(count or 0 for count in cached),
        "output": num_output,
        "output_per_event": round(num_output / num_events, 4) if num_events else None,
        "input_per_request": _described(o.input_tokens for o in finished),
        "output_per_request": _described(o.output_tokens for o in finished),
    }


def _rates(
    settings: LoadSettings,
    outcomes: Sequence[Outcome],
    num_finished: int,
    tokens: Mapping[str, Any],
    wall_s: float,
) -> dict[str, Any]:
    """Over the wall time, from the first request that was due to the end of the last answer."""
    arrivals_s = [outcome.scheduled_s for outcome in outcomes]
    span_s = max(arrivals_s) - min(arrivals_s)
    is_open = settings.rate_per_s is not None and span_s > 0
    return {
        "requests_per_s": _rounded(num_finished / wall_s),
        "output_tokens_per_s": _rounded(tokens["output"] / wall_s),
        "total_tokens_per_s": _rounded((tokens["input"] + tokens["output"]) / wall_s),
        "arrivals_per_s": _rounded((len(outcomes) - 1) / span_s) if is_open else None,
    }


def _goodput(slo: Slo | None, outcomes: Sequence[Outcome], wall_s: float) -> dict[str, Any] | None:
    """Of all requests, failed ones included; None without an objective."""
    if slo is None:
        return None
    num_good = sum(slo.is_met_by(outcome) for outcome in outcomes)
    return {
        "slo_s": dict(slo.limits_s),
        "good": num_good,
        "share": round(num_good / len(outcomes), 6),
        "requests_per_s": _rounded(num_good / wall_s),
    }


def _sample(outcome: Outcome) -> dict[str, Any]:
    failure = outcome.failure
    return {
        "index": outcome.index,
        "scheduled_s": _rounded(outcome.scheduled_s),
        "sent_s": _rounded(outcome.sent_s),
        "end_s": _rounded(outcome.end_s),
        "ttft_s": _rounded(outcome.ttft_s),
        "tpot_s": _rounded(outcome.tpot_s),
        "max_itl_s": _rounded(max(outcome.itl_s, default=None)),
        "e2e_s": _rounded(outcome.e2e_s),
        "num_events": len(outcome.event_s),
        "input_tokens": outcome.input_tokens,
        "cached_input_tokens": outcome.cached_input_tokens,
        "output_tokens": outcome.output_tokens,
        "asked_output_tokens": outcome.asked_output_tokens,
        "failure": None if failure is None else asdict(failure),
    }


def _described(values: Iterable[float | None]) -> dict[str, Any] | None:
    found = describe([value for value in values if value is not None])
    if found is None:
        return None
    return {name: _rounded(value) for name, value in asdict(found).items()}


def _rounded(value: float | None) -> float | None:
    """Microseconds are finer than anything that is measured here."""
    return value if value is None or isinstance(value, int) else round(value, 6)
