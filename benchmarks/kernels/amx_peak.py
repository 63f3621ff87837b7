"""Int8 peak of every ISA tier on registers alone: the roof of everything with many rows.

Operands never leave registers, so nothing but the multipliers is measured. All tiers alternate in
rounds; a cell is the median. The ratio is to the best tier on the same threads.

    python benchmarks/kernels/amx_peak.py [--threads 2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import statistics

from timing import print_record, print_table

from headrace import _cpu
from headrace.ops.cpu.isa import all_isas

SECONDS = 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    counts = sorted({1, args.threads})
    names = [status.name for status in all_isas() if status.is_available]
    pools = {(name, n): _cpu.CpuOps(name, n) for name in names for n in counts}
    found: dict[tuple[str, int], list[float]] = {key: [] for key in pools}
    for _ in range(args.rounds):
        for key, ops in pools.items():
            found[key].append(_cpu.probe_int8_peak(ops, SECONDS, 1) / 1e12)
    medians = {key: statistics.median(rates) for key, rates in found.items()}
    best = max(medians[name, args.threads] for name in names)
    rows, results = [], []
    for status in all_isas():
        if not status.is_available:
            print(f"{status.name} cannot run here: {status.reason}")
            continue
        every = found[status.name, args.threads]
        rows.append(
            [
                status.name,
                *(f"{medians[status.name, n]:.3f}" for n in counts),
                f"{min(every):.3f} to {max(every):.3f}",
                f"{medians[status.name, args.threads] / best:.3f}",
            ]
        )
        tops = {f"tops_{n}": round(medians[status.name, n], 4) for n in counts}
        results.append({"isa": status.name, **tops})
    columns = [f"{n} thread{'s' * (n > 1)}, TOP/s" for n in counts]
    print_table(["tier", *columns, "rounds", "of best"], rows)
    print_record("kernels/amx_peak", {"threads": args.threads, "rounds": args.rounds}, results)


if __name__ == "__main__":
    main()
