"""Linears against the roof of the same moment: GB/s for few rows, TOP/s for many.

    python benchmarks/kernels/bench_matmul.py [--isa amx] [--threads 2] [--formats q4_k,q5_0]
                                              [--rows 1,16,512] [--stream-mib 256]

M rows of activations times a weight of N columns and depth K.

Few rows stream the weights once, so their roof is the read bandwidth; many rows reuse them, so
theirs is the int8 peak. Both are probed before every measurement, because a shared machine drifts
by 2x within minutes. The baseline is numpy's float32 product of up to 8192 dequantized rows, scaled
to all, in alternation. Each case first proves that its rows have the bits of the definition
(ops/reference/canonical_linear). The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace import _cpu
from headrace.ops.cpu import matmul
from headrace.ops.cpu.isa import choose_isa
from headrace.ops.reference.canonical_linear import canonical_linear
from headrace.quant.quant_tensor import QuantTensor

Dense = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from kernels.matmul_cases import activations, random_blocks  # noqa: E402

# Larger than a last-level cache together, so that few rows read memory.
SHAPES = {"q5_0": (9728, 896), "q8_0": (151936, 896), "q4_k": (17920, 1536), "q6_k": (8960, 4864)}
STREAM_MIB = 256
FEW_ROWS = 16
PROBE_BYTES = 256 << 20
BLAS_SPIN_S = 0.1
"""numpy's threads spin that long for more work, and halve what two threads read meanwhile."""


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over rounds. Units: microseconds, GB/s, TOP/s."""

    format: str
    out: int
    depth: int
    rows: int
    us: float
    spread: float
    gb_per_s: float
    top_per_s: float
    roof_gb_per_s: float
    roof_top_per_s: float
    share_of_roof: float
    times_numpy: float


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def prove(ops: _cpu.CpuOps, tensor: QuantTensor, weight: _cpu.PackedLinear, rows: int) -> None:
    """A few columns by the definition; all columns of the last row as it is alone."""
    x = activations(np.random.default_rng(1), rows, tensor.shape[1])
    y = matmul.linear(ops, x, weight)
    expected = canonical_linear(x[-4:], tensor.rows(0, 48))
    assert np.array_equal(y[-4:, :48], expected), "not the bits of the definition"
    alone = matmul.linear(ops, x[-1:], weight)
    assert np.array_equal(y[-1:], alone), "a row depends on its batch"


def measure(
    ops: _cpu.CpuOps,
    name: str,
    rows: int,
    rounds: int,
    weights: list[_cpu.PackedLinear],
    dense: Dense,
) -> Result:
    """Median time of one product, over copies of the weight that do not fit a cache together."""
    out, depth = weights[0].num_columns, weights[0].depth
    x = activations(np.random.default_rng(2), rows, depth)
    y = np.zeros((rows, out), np.float32)
    times, baseline, bandwidths, peaks = [], [], [], []
    for _ in range(rounds):
        time.sleep(BLAS_SPIN_S)
        bandwidths.append(_cpu.probe_read_bandwidth(ops, PROBE_BYTES, 1))
        peaks.append(_cpu.probe_int8_peak(ops, 0.01, 1))
        used = weights if rows <= FEW_ROWS else weights[:1]
        times.append(
            seconds_of(lambda: [_cpu.linear(ops, x, w, y) for w in used]) / len(used)  # noqa: B023
        )
        baseline.append(seconds_of(lambda: x @ dense) * out / dense.shape[1])
    seconds, bandwidth, peak = (statistics.median(values) for values in (times, bandwidths, peaks))
    rate, compute = weights[0].num_bytes / seconds, 2 * rows * out * depth / seconds
    return Result(
        format=name,
        out=out,
        depth=depth,
        rows=rows,
        us=seconds * 1e6,
        spread=(max(times) - min(times)) / seconds,
        gb_per_s=rate / 1e9,
        top_per_s=compute / 1e12,
        roof_gb_per_s=bandwidth / 1e9,
        roof_top_per_s=peak / 1e12,
        share_of_roof=rate / bandwidth if rows <= FEW_ROWS else compute / peak,
        times_numpy=statistics.median(baseline) / seconds,
    )


def run(
    ops: _cpu.CpuOps, names: list[str], row_counts: list[int], rounds: int, stream_bytes: int
) -> Iterator[Result]:
    rng = np.random.default_rng(0)
    for name in names:
        tensor = random_blocks(rng, name, SHAPES[name])
        packs = [matmul.pack_linear(ops, [tensor], None, False)]  # with what packing reads
        copies = -(-stream_bytes // packs[0][0].num_bytes)
        packs += [matmul.pack_linear(ops, [tensor], None, False) for _ in range(copies - 1)]
        weights = [weight for weight, _ in packs]
        dense = np.ascontiguousarray(tensor.rows(0, min(8192, SHAPES[name][0])).dequantize().T)
        for rows in row_counts:
            prove(ops, tensor, weights[0], rows)
            yield measure(ops, name, rows, rounds, weights, dense)


def commit() -> str:
    found = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    )
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--formats", default=",".join(SHAPES))
    parser.add_argument("--rows", default="1,4,8,16,32,128,512")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--stream-mib", type=int, default=STREAM_MIB, help="weights read in turn")
    args = parser.parse_args()
    ops = _cpu.CpuOps(choose_isa(args.isa), args.threads)
    row_counts = [int(rows) for rows in args.rows.split(",")]
    print(
        f"{'format':6} {'M':>4} {'K':>5} {'N':>7} {'us':>9} {'GB/s':>6} {'TOP/s':>6} "
        f"{'of read':>8} {'of int8':>8} {'x numpy':>8}"
    )
    results = []
    stream_bytes = args.stream_mib << 20
    for r in run(ops, args.formats.split(","), row_counts, args.rounds, stream_bytes):
        results.append(r)
        print(
            f"{r.format:6} {r.rows:4} {r.depth:5} {r.out:7} {r.us:9.0f} {r.gb_per_s:6.1f} "
            f"{r.top_per_s:6.3f} {r.gb_per_s / r.roof_gb_per_s:8.0%} "
            f"{r.top_per_s / r.roof_top_per_s:8.0%} {r.times_numpy:8.1f}",
            flush=True,
        )
    record = {
        "benchmark": "kernels/matmul",
        "commit": commit(),
        "cpu": platform.processor() or platform.machine(),
        "isa": ops.isa,
        "threads": args.threads,
        "results": [asdict(r) for r in results],
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
