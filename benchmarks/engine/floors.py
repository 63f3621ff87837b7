"""The floors of the CPU engine on the 0.5B model: decode, prefill, 32 concurrent, memory.

Rounds alternate engine and probes, because shared machines drift by 2x within minutes; decode is
judged as a share of the read bandwidth of its own round. Usage:

    make bench name=engine/floors                 # prints, exits 1 below a floor
    make bench name=engine/floors args=--record   # also appends to benchmarks/results

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from headrace.bench.report import BenchReport, Round, Settings, run_bench, table_rows
from headrace.config.resolve import resolve_config
from headrace.core.config import DEFAULT_MODEL
from headrace.hub.model_store import ModelStore
from headrace.launch.backends import open_engine
from headrace.launch.local_engine import LocalEngine

RESULTS = Path(__file__).parent.parent / "results"

DECODE_SHARE = 0.60
"""Of the measured read bandwidth, over the bytes of the weights that a token streams."""
PREFILL_TOKENS_PER_S = 500.0
CONCURRENT_TOKENS_PER_S = 150.0
MEMORY_MARGIN_BYTES = 400 * 1024**2
"""Peak memory beyond model file and KV cache."""


async def measure(engine: LocalEngine, rounds: int) -> BenchReport:
    await engine.start()
    try:
        return await run_bench(
            engine,
            engine.work,
            engine.vocab_size,
            engine.probe_roof,
            Settings(rounds=rounds),
            on_round=show,
            environment=engine.environment,
        )
    finally:
        await engine.stop()


def show(number: int, found: Round) -> None:
    print(
        f"round {number + 1}: read {found.roof.read_bytes_per_s / 1e9:.1f} GB/s, "
        f"int8 {found.roof.int8_ops_per_s / 1e12:.2f} TOP/s | "
        f"decode {found.decode_tokens_per_s:.1f} tok/s = {found.decode_share_of_bandwidth:.0%}, "
        f"prefill {found.prefill_tokens_per_s:.0f} tok/s, "
        f"concurrent {found.concurrent_output_tokens_per_s:.0f} tok/s",
        flush=True,
    )


def judge(report: BenchReport, file_bytes: int, kv_bytes: int) -> list[tuple[str, float, float]]:
    """(name, measured, floor); memory is counted so that more is worse, hence negative."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        ("decode share of bandwidth", report.median("decode_share_of_bandwidth"), DECODE_SHARE),
        ("prefill tokens/s", report.median("prefill_tokens_per_s"), PREFILL_TOKENS_PER_S),
        (
            "concurrent output tokens/s",
            report.median("concurrent_output_tokens_per_s"),
            CONCURRENT_TOKENS_PER_S,
        ),
        ("minus peak bytes", -peak, -(file_bytes + kv_bytes + MEMORY_MARGIN_BYTES)),
    ]


def environment() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    return {"commit": commit.stdout.strip(), "cpu": cpu, "date": date.today().isoformat()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    config = resolve_config({}, os.environ)
    local = ModelStore(config.hub).pull(arguments.model)
    engine = open_engine(arguments.model, config)
    report = asyncio.run(measure(engine, arguments.rounds))
    for row in table_rows(report):
        print(f"{row[0]:<28} {row[1]:>8}  ({row[2]})  {row[3]}")
    verdicts = judge(report, local.size_bytes, engine.capacity.kv_bytes)
    for name, measured, floor in verdicts:
        mark = "ok" if measured >= floor else "BELOW"
        print(f"{name:<28} {measured:>14.6g}  floor {floor:.6g}  {mark}")
    record = {"benchmark": "engine/floors", **environment(), **report.as_json()}
    record["peak_rss_bytes"] = -verdicts[-1][1]
    if arguments.record:
        name = f"{record['date']}-{record['ops']}.jsonl"
        with (RESULTS / name).open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    sys.exit(any(measured < floor for _, measured, floor in verdicts))


if __name__ == "__main__":
    main()
