"""The microbenchmarks with short settings, in a process each: under a minute in all.

    make bench name=kernels/all                        # all of them
    make bench name=kernels/all args="barrier gemm"    # some
    make bench name=kernels/all args=--record          # also appends to benchmarks/results

Every table has the roof of its own run beside it. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results"

SHORT: dict[str, tuple[str, ...]] = {
    "bw_sweep": ("bw_sweep.py", "--rounds", "2"),
    "amx_peak": ("amx_peak.py", "--rounds", "3"),
    "barrier": ("barrier.py", "--rounds", "200"),
    "gemm": ("bench_matmul.py", "--rows", "1,16,32,512", "--rounds", "3", "--stream-mib", "192"),
    "attention": (
        *("bench_attention.py", "--rounds", "5", "--no-torch", "--models", "qwen2.5-0.5b"),
        *("--batches", "decode-512", "decode-4096", "decode-32x512", "prefill-512", "prefill-4096"),
    ),
    "step_breakdown": ("step_breakdown.py", "--rounds", "1"),
}


def run(name: str) -> dict[str, object]:
    """Show a benchmark's tables; its record is what it printed last."""
    script, *arguments = SHORT[name]
    print(f"== {name}", flush=True)
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], stdout=subprocess.PIPE, text=True
    )
    *shown, last = done.stdout.splitlines() or [""]
    print("\n".join(shown), flush=True)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}")
    record: dict[str, object] = json.loads(last)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(SHORT)}")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    args = parser.parse_args()
    if unknown := set(args.names) - set(SHORT):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; allowed: {', '.join(SHORT)}")
    start = time.perf_counter()
    records = {name: run(name) for name in args.names or SHORT}
    seconds = time.perf_counter() - start
    print(f"{len(records)} benchmarks in {seconds:.0f} s")
    today = date.today().isoformat()
    record = {"benchmark": "kernels/all", "date": today, "seconds": seconds, "records": records}
    if args.record:
        with (RESULTS / f"{today}-kernels.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
