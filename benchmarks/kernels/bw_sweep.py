"""Read bandwidth by footprint: what one thread and all threads read from L2, L3 and memory.

A decode step reads every weight once, so the row that is larger than any cache is its roof. The
whole sweep repeats in rounds, because shared machines drift within minutes; a cell is the median.

    python benchmarks/kernels/bw_sweep.py [--threads 2] [--rounds 3] [--mib 1 8 64 256 1024]
"""

from __future__ import annotations

import argparse
import os
import statistics

from timing import print_record, print_table

from headrace import _cpu
from headrace.ops.cpu.isa import choose_isa

READS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, nargs="*", default=[1, 4, 16, 64, 256, 1024])
    args = parser.parse_args()
    pools = {n: _cpu.CpuOps(choose_isa(), n) for n in sorted({1, args.threads})}
    found: dict[tuple[int, int], list[float]] = {}
    for _ in range(args.rounds):
        for mib in args.mib:
            for threads, ops in pools.items():
                rate = _cpu.probe_read_bandwidth(ops, mib << 20, READS)
                found.setdefault((mib, threads), []).append(rate / 1e9)
    medians = {key: statistics.median(rates) for key, rates in found.items()}
    memory = medians[max(args.mib), args.threads]
    results, rows = [], []
    for mib in args.mib:
        rates = [medians[mib, threads] for threads in pools]
        every = found[mib, args.threads]
        spread = f"{min(every):.1f} to {max(every):.1f}"
        rows.append(
            [f"{mib} MiB", *(f"{rate:.1f}" for rate in rates), spread, f"{rates[-1] / memory:.2f}"]
        )
        results.append(
            {"mib": mib} | {f"gb_per_s_{n}": round(r, 2) for n, r in zip(pools, rates, strict=True)}
        )
    names = [f"{threads} thread{'s' * (threads > 1)}, GB/s" for threads in pools]
    print_table(["footprint", *names, "rounds", f"of {max(args.mib)} MiB"], rows)
    print_record("kernels/bw_sweep", {"threads": args.threads, "rounds": args.rounds}, results)


if __name__ == "__main__":
    main()
