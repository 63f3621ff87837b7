"""The simulation of `headrace capacity` beside a real server under `headrace bench serve`.

For each rate: steps of a real `headrace serve` are timed through its API; then it gets a Poisson
load of mixed lengths; then steps are timed again. Exactly these calls (moments, tokens in and out)
are simulated from the mean of both. TTFT and TPOT at p50 and p90 should be within 20 %. A rate
during which steps moved by more than a quarter measures the machine, and is marked. Usage:

    make bench name=planner/capacity                              # three rates, about five minutes
    make bench name=planner/capacity args="--rates 1 --seconds 30"
    make bench name=planner/capacity args=--record                # appends to benchmarks/results

Exits 1 where an error of a steady rate is larger, and where no rate was steady. The last line of
stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
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
STEADY = 1.25
LEAST_REQUESTS = 20


async def time_steps(url: str, model: str) -> StepTimes:
    """Of the server, as its callers see them."""
    upstream = Upstream(UpstreamConfig(name="served", url=url, models=(model,)), None)
    try:
        return await measure_steps(upstream)
    finally:
        upstream.close()


def between(a: StepTimes, b: StepTimes) -> StepTimes:
    """The mean of two."""
    return StepTimes(
        a.batch_sizes,
        tuple((x + y) / 2 for x, y in zip(a.decode_s, b.decode_s, strict=True)),
        (a.prompt_token_s + b.prompt_token_s) / 2,
        (a.prompt_base_s + b.prompt_base_s) / 2,
        (a.context_token_s + b.context_token_s) / 2,
        (a.base_context + b.base_context) / 2,
    )


def load(url: str, rate: float, count: int, seed: int) -> list[dict[str, Any]]:
    """The requests of a load, as the server answered them."""
    command = [sys.executable, "-m", "headrace", "bench", "serve", "--url", url, "--json"]
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
            each["input_tokens"] - (each["cached_input_tokens"] or 0),
            each["output_tokens"],
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
    samples: Sequence[Mapping[str, Any]], predicted: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Measured and predicted, metric by metric."""
    rows = []
    for metric in ("ttft_s", "tpot_s"):
        values = [float(each[metric]) for each in samples if each[metric] is not None]
        seen = percentiles(values, PERCENTS)
        for percent, real, guess in zip(PERCENTS, seen, predicted[metric], strict=True):
            rows.append(
                {
                    "metric": f"{metric[:-2]} p{percent}",
                    "measured_ms": round(1e3 * real, 2),
                    "predicted_ms": round(1e3 * guess, 2),
                    "error": round(guess / real - 1, 4),
                }
            )
    return rows


def run_rate(
    server: ServedModel, rate: float, arguments: argparse.Namespace, config: Config
) -> dict[str, Any]:
    """One rate: steps, load, steps again, simulation."""
    before = asyncio.run(time_steps(server.base_url, server.model))
    count = max(LEAST_REQUESTS, round(rate * arguments.seconds))
    samples = load(server.base_url, rate, count, arguments.seed)
    after = asyncio.run(time_steps(server.base_url, server.model))
    times = between(before, after)
    predicted = predict(samples, times, config)
    drift = [round(b / a, 3) for a, b in zip(before.decode_s, after.decode_s, strict=True)]
    drift.append(round(after.prompt_token_s / before.prompt_token_s, 3))
    is_steady = max(drift) <= STEADY and min(drift) >= 1 / STEADY
    rows = compare(samples, predicted)
    print(f"rate {rate}/s, {count} requests, simulated {predicted['utilization']:.0%} busy; "
          f"steps moved by {min(drift):.2f} to {max(drift):.2f}"
          + ("" if is_steady else ": not steady"))  # fmt: skip
    for row in rows:
        print(
            f"  {row['metric']:9} measured {row['measured_ms']:9.1f} ms  "
            f"predicted {row['predicted_ms']:9.1f} ms  error {row['error']:+.0%}",
            flush=True,
        )
    return {
        "rate": rate,
        "requests": count,
        "utilization": round(predicted["utilization"], 4),
        "rows": rows,
        "steps": asdict(times),
        "drift": drift,
        "is_steady": is_steady,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rates", default="0.3,0.8,1.5", help="requests a second, commas between")
    parser.add_argument("--seconds", type=float, default=60.0, help="of arrivals at each rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    config = resolve_config({}, os.environ)
    found = []
    with tempfile.TemporaryDirectory() as folder, serve(arguments.model, Path(folder)) as server:
        for rate in map(float, arguments.rates.split(",")):
            found.append(run_rate(server, rate, arguments, config))
    steady = [each for each in found if each["is_steady"]]
    worst = max((abs(row["error"]) for each in steady for row in each["rows"]), default=None)
    record = {
        "benchmark": "planner/capacity",
        **environment(),
        "model": arguments.model,
        "allowed": ALLOWED,
        "worst": worst,
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
