"""What an empty parallel call costs: waking the workers, sharing nothing out, waiting for the end.

The call stores rows whose slots are -1, which the kernel skips: one piece of work per thread, each
of them empty. Measured right after the last call, when workers still spin, and after a pause, when
they sleep; one thread has no pool, so its row is the call from Python alone.

    python benchmarks/kernels/barrier.py [--threads 2] [--rounds 400]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np
from timing import print_record, print_table

from headrace.ops.cpu.cpu_ops import CpuOps
from headrace.ops.protocol import AttentionSpec

# A row this wide is a piece of work of its own.
SPEC = AttentionSpec(num_heads=254, num_kv_heads=1, head_size=64, scale=1.0)
PAUSE_S = 0.002


def seconds(ops: CpuOps, num_rows: int, rounds: int, pause_s: float) -> list[float]:
    """Times of empty calls, after some that are not counted."""
    layer = ops.allocate_kv([SPEC], 1, 32).layers[0]
    qkv = np.zeros((num_rows, SPEC.qkv_width), np.float32)
    skipped = np.full(num_rows, -1, np.int32)
    times = []
    for index in range(rounds + 20):
        if pause_s:
            time.sleep(pause_s)
        start = time.perf_counter()
        ops.store_kv(qkv, layer, skipped, SPEC)
        if index >= 20:
            times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=400)
    args = parser.parse_args()
    rows, results = [], []
    alone: dict[str, float] = {}
    for threads in sorted({1, args.threads}):
        ops = CpuOps(num_threads=threads)
        for state, pause_s in (("spinning", 0.0), ("asleep", PAUSE_S)):
            times = [1e6 * s for s in seconds(ops, threads, args.rounds, pause_s)]
            median = statistics.median(times)
            alone.setdefault(state, median)
            ends = statistics.quantiles(times, n=10)
            rows.append(
                [
                    f"{threads} thread{'s' * (threads > 1)}, workers {state}",
                    f"{median:.2f}",
                    f"{ends[0]:.2f} to {ends[-1]:.2f}",
                    f"{median - alone[state]:+.2f}",
                ]
            )
            results.append({"threads": threads, "state": state, "median_us": round(median, 3)})
    print_table(["empty call", "median, us", "p10 to p90", "over 1 thread, us"], rows)
    print_record("kernels/barrier", {"isa": ops.name, "rounds": args.rounds}, results)


if __name__ == "__main__":
    main()
