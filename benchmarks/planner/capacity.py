"""The simulation of `headrace capacity` beside a real server under `headrace bench serve`.

For each rate a real `headrace serve` is asked in turns: steps are timed through its API, then it
gets a Poisson load of mixed lengths, twice; then steps are timed once more. Exactly these calls
(moments, tokens in and out) are simulated from the middle of the three timings. TTFT and TPOT at
p50 and p90 should be within 20 % of the mean of both loads. Where two equal loads differ by more
than 20 % that number measures the machine: it is marked, and not judged. Usage:

    make bench name=planner/capacity                              # three rates, about eight minutes
    make bench name=planner/capacity args="--rates 1 --seconds 30"
    make bench name=planner/capacity args=--record                # appends to benchmarks/results

Exits 1 where an error of a number that repeats is larger, and where none repeats. The last line of
stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "engine"), str(ROOT / "tests" / "e2e")]
from floors import RESULTS, environment  # noqa: E402
from served_model import ServedModel, serve  # noqa: E402

from headrace.bench.percentile import percentiles  # noqa: E402
from headrace.client.upstream import Upstream  # noqa: E402
from headrace.config.resolve import resolve_config  # noqa: E402
from headrace.core.config import DEFAULT_MODEL, Config  # noqa: E402
from headrace.core.upstreams import UpstreamConfig  # noqa: E402
from headrace.planner.capacity import SimulatedCall, simulate  # noqa: E402
from headrace.planner.step_times import StepTimes, measure_steps  # noqa: E402

PERCENTS = (50, 90)
ALLOWED = 0.20
LEAST_REQUESTS = 20
LOADS = 2


async def time_steps(url: str, model: str) -> StepTimes:
    """Of the server, as its callers see them."""
    upstream = Upstream(UpstreamConfig(name="served", url=url, models=(model,)), None)
    try:
        return await measure_steps(upstream)
    finally:
        upstream.close()


def middle(found: Sequence[StepTimes]) -> StepTimes:
    """Of several, number by number."""
    mixed = [each.mixed_token_s for each in found if each.mixed_token_s is not None]
    return StepTimes(
        found[0].batch_sizes,
        tuple(map(statistics.median, zip(*(each.decode_s for each in found), strict=True))),
        statistics.median(each.prompt_token_s for each in found),
        statistics.median(each.prompt_base_s for each in found),
        statistics.median(each.context_token_s for each in found),
        statistics.median(each.base_context for each in found),
        statistics.median(mixed) if mixed else None,
    )


def load(server: ServedModel, rate: float, count: int, seed: int) -> list[dict[str, Any]]:
    """The requests of a load, as the server answered them, which knows none of their prompts."""
    with server.client() as client:
        client.post("/reset_prefix_cache").raise_for_status()
    command = [sys.executable, "-m", "headrace", "bench", "serve", "--url", server.base_url]
    command.append("--json")
    flags = ["--rate", str(rate), "--num-requests", str(count), "--seed", str(seed)]
    done = subprocess.run([*command, *flags], stdout=subprocess.PIPE, text=True, check=True)
    report = json.loads(done.stdout.splitlines()[-1])
    if report["requests"]["failed"]:
        raise SystemExit(f"requests failed: {report['requests']['failures']}")
    samples: list[dict[str, Any]] = report["samples"]
    return samples


def predict(
    samples: Sequence[Mapping[str, Any]], times: StepTimes, config: Config
) -> dict[str, Any]:
    """The same calls, simulated."""
    calls = [
        SimulatedCall(
            each["scheduled_s"],
            each["input_tokens"],
            each["output_tokens"],
            each["cached_input_tokens"] or 0,
        )
        for each in sorted(samples, key=lambda each: float(each["scheduled_s"]))
    ]
    found = simulate(calls, times, config.engine)
    tpot_s = [call.tpot_s for call in found.calls if call.tpot_s is not None]
    return {
        "ttft_s": percentiles([call.ttft_s for call in found.calls], PERCENTS),
        "tpot_s": percentiles(tpot_s, PERCENTS),
        "utilization": found.utilization,
    }


def compare(
    loads: Sequence[Sequence[Mapping[str, Any]]], predicted: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Measured and predicted, number by number."""
    rows = []
    for metric in ("ttft_s", "tpot_s"):
        seen = [
            percentiles(
                [float(each[metric]) for each in load if each[metric] is not None], PERCENTS
            )
            for load in loads
        ]
        for place, percent in enumerate(PERCENTS):
            real, guess = [values[place] for values in seen], predicted[metric][place]
            rows.append(
                {
                    "metric": f"{metric[:-2]} p{percent}",
                    "measured_ms": [round(1e3 * value, 2) for value in real],
                    "repeats_within": round(max(real) / min(real) - 1, 4),
                    "predicted_ms": round(1e3 * guess, 2),
                    "error": round(guess / math.fsum(real) * len(real) - 1, 4),
                }
            )
    return rows


def is_judged(row: Mapping[str, Any]) -> bool:
    """Whether the machine itself repeats what was measured."""
    return bool(row["repeats_within"] <= ALLOWED)


def run_rate(
    server: ServedModel, rate: float, arguments: argparse.Namespace, config: Config
) -> dict[str, Any]:
    """One rate: steps and load in turns, simulation."""
    count = max(LEAST_REQUESTS, round(rate * arguments.seconds))
    timed, loads = [], []
    for _ in range(LOADS):
        timed.append(asyncio.run(time_steps(server.base_url, server.model)))
        loads.append(load(server, rate, count, arguments.seed))
    timed.append(asyncio.run(time_steps(server.base_url, server.model)))
    times = middle(timed)
    predicted = predict(loads[0], times, config)
    rows = compare(loads, predicted)
    print(f"rate {rate}/s, {count} requests, simulated {predicted['utilization']:.0%} busy")
    for row in rows:
        first, second = row["measured_ms"]
        print(
            f"  {row['metric']:9} measured {first:8.1f} and {second:8.1f} ms  "
            f"predicted {row['predicted_ms']:8.1f} ms  error {row['error']:+.0%}"
            + ("" if is_judged(row) else "  not judged: the machine does not repeat it"),
            flush=True,
        )
    return {
        "rate": rate,
        "requests": count,
        "utilization": round(predicted["utilization"], 4),
        "rows": rows,
        "steps": asdict(times),
        "timed": [asdict(each) for each in timed],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rates", default="0.4,0.8,1.2", help="requests a second, commas between")
    parser.add_argument("--seconds", type=float, default=60.0, help="of arrivals at each rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    config = resolve_config({}, os.environ)
    found = []
    with tempfile.TemporaryDirectory() as folder, serve(arguments.model, Path(folder)) as server:
        for rate in map(float, arguments.rates.split(",")):
            found.append(run_rate(server, rate, arguments, config))
    rows = [row for each in found for row in each["rows"]]
    judged = [abs(row["error"]) for row in rows if is_judged(row)]
    worst = max(judged, default=None)
    record = {
        "benchmark": "planner/capacity",
        **environment(),
        "model": arguments.model,
        "allowed": ALLOWED,
        "worst": worst,
        "judged": len(judged),
        "measured": len(rows),
        "rates": found,
    }
    if arguments.record:
        name = f"{record['date']}-planner.jsonl"
        with (RESULTS / name).open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    sys.exit(worst is None or worst > ALLOWED)


if __name__ == "__main__":
    main()
