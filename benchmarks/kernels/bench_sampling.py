"""Choosing tokens from rows of logits: no filter, each filter, logprobs. Roof: one read of a row.

Logits are drawn to look like a language model's: a normal bulk and a few tokens far above it. The
baseline is the same choice by a sort in numpy. Times are per row.

    python benchmarks/kernels/bench_sampling.py [--isa amx] [--vocab 151936] [--rounds 20]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from timing import alternate, print_record, summary

from headrace.ops.cpu.cpu_ops import CpuOps
from headrace.ops.reference import sampling
from kernels.cases import SAMPLE_SETTINGS, SampleSettings, sample_inputs

TIMED = ("greedy", "plain", "top-k-50", "top-p", "min-p", "typical", "chat", "all")


def model_logits(rng: np.random.Generator, num_rows: int, num_tokens: int) -> np.ndarray:
    """A bulk around 0 and a tail that reaches about 22. Shapes: [num_rows, num_tokens]."""
    logits = rng.standard_normal((num_rows, num_tokens)) * 2.5
    for row in logits:
        best = rng.choice(num_tokens, 40, replace=False)
        row[best] = 22 - np.sort(rng.exponential(3.0, 40))
    return logits.astype(np.float32)


def numpy_top_p(logits: np.ndarray, settings: SampleSettings, rng: np.random.Generator) -> None:
    """Sort, cut, draw: what a sampler without care does."""
    for row in logits:
        x = row / max(settings.temperature, 1e-5)
        order = np.argsort(-x)
        p = np.exp(x[order] - x[order[0]])
        p /= p.sum()
        kept = np.cumsum(p) - p < settings.top_p
        rng.choice(order[kept], p=p[kept] / p[kept].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    ops = CpuOps(isa=args.isa, num_threads=args.threads)
    rng = np.random.default_rng(0)
    logits = model_logits(rng, args.rows, args.vocab)
    seeds, positions = np.arange(args.rows), np.full(args.rows, 77)
    results: dict[str, Any] = {}
    for settings in SAMPLE_SETTINGS:
        if settings.name not in TIMED:
            continue
        inputs = sample_inputs([settings] * args.rows, seeds, positions)
        np.testing.assert_array_equal(ops.sample(logits, inputs), sampling.sample(logits, inputs))
        times = alternate({"sample": lambda i=inputs: ops.sample(logits, i)}, args.rounds)
        results[settings.name] = summary([s / args.rows for s in times["sample"]])
    chosen = np.zeros(args.rows, np.int32)
    times = alternate({"logprobs": lambda: ops.logprobs(logits, chosen, 20)}, args.rounds)
    results["logprobs-20"] = summary([s / args.rows for s in times["logprobs"]])
    baseline = next(s for s in SAMPLE_SETTINGS if s.name == "top-p")
    times = alternate({"numpy": lambda: numpy_top_p(logits, baseline, rng)}, 3)
    results["numpy-sort-top-p"] = summary([s / args.rows for s in times["numpy"]])
    for name, row in results.items():
        print(f"{name:18} {row['median_us']:9.1f} us per row  (min {row['min_us']:.1f})")
    ratio = results["numpy-sort-top-p"]["median_us"] / results["top-p"]["median_us"]
    print(f"numpy sort / headrace, top_p: {ratio:.1f}")
    settings = {"isa": ops.name, "threads": args.threads, "vocab": args.vocab, "ratio": ratio}
    print_record("sampling", settings, results)


if __name__ == "__main__":
    main()
