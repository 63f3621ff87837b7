"""Paged attention: decode against memory bandwidth, prefill against arithmetic.

A decode step reads every key and value of a sequence once, so its roof is GB/s; prefill multiplies
each pair of tokens twice, so its roof is FLOP/s: half of the int8 peak, where there are bf16 tiles.
Few rows read one layer after another, as a model does, so that no cache holds them all. The
baseline is torch's attention over contiguous bf16 keys and values, when torch is installed. Times
are per layer, the probes are of the same minute.

    python benchmarks/kernels/bench_attention.py [--isa amx] [--threads 2] [--rounds 20]
    python benchmarks/kernels/bench_attention.py --kv-cache-dtype int8
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parent))

from timing import alternate, print_record, summary

from headrace.ops.cpu.cpu_ops import CpuOps
from headrace.ops.cpu.roof import probe_roof
from headrace.ops.protocol import KVCacheDtype
from headrace.ops.reference.reference_ops import ReferenceOps
from kernels.cases import (
    ATTENTION_BF16_ERROR,
    ATTENTION_CASES,
    AttentionCase,
    attention_inputs,
    spec,
)
from kernels.errors import largest_error

if importlib.util.find_spec("torch"):
    import torch
else:
    torch = None

SPECS = {
    "qwen2.5-0.5b": spec(14, 2, 64),
    "qwen2.5-1.5b": spec(12, 2, 128),
    "gemma3-270m": spec(4, 1, 256),
}
STREAM_BYTES, MOST_LAYERS = 128 << 20, 64
BATCHES = {
    "decode-512": ((511, 1),),
    "decode-4096": ((4095, 1),),
    "decode-16384": ((16383, 1),),
    "decode-32x512": ((511, 1),) * 32,
    "verify-8-of-4096": ((4088, 8),),
    "prefill-512": ((0, 512),),
    "prefill-4096": ((0, 4096),),
    "last-512-of-4096": ((3584, 512),),
}


def fill(ops: Any, case: AttentionCase, inputs: Any, dtype: KVCacheDtype) -> Any:
    """A cache that holds the past and the step's own tokens."""
    layer = ops.allocate_kv([case.spec], inputs.num_blocks, inputs.block_size, dtype).layers[0]
    for qkv, slots in (
        (inputs.past_qkv, inputs.past_slots),
        (inputs.qkv, inputs.step.slot_mapping),
    ):
        if len(slots):
            ops.store_kv(qkv.astype(getattr(ops, "dtype", np.float32)), layer, slots, case.spec)
    return layer


def check(ops: CpuOps, rng: np.random.Generator, dtype: KVCacheDtype) -> None:
    """Answers are right before they are timed."""
    exact = ReferenceOps(np.float64)
    for case in ATTENTION_CASES:
        inputs = attention_inputs(case, rng)
        expected = exact.attention(
            inputs.qkv.astype(np.float64), fill(exact, case, inputs, dtype), inputs.step, case.spec
        )
        actual = ops.attention(inputs.qkv, fill(ops, case, inputs, dtype), inputs.step, case.spec)
        assert largest_error(actual, expected) < ATTENTION_BF16_ERROR, case.name


def torch_call(case: AttentionCase, rng: np.random.Generator) -> Any:
    """torch's attention for the requests of a case, one after another."""
    heads, kv_heads, size = case.spec.num_heads, case.spec.num_kv_heads, case.spec.head_size
    group = heads // kv_heads
    calls = []
    for past, new in case.requests:
        q = torch.from_numpy(rng.standard_normal((1, heads, new, size))).to(torch.bfloat16)
        k, v = (
            torch.from_numpy(rng.standard_normal((1, kv_heads, past + new, size)))
            .to(torch.bfloat16)
            .repeat_interleave(group, dim=1)
            for _ in range(2)
        )
        mask = torch.ones(new, past + new, dtype=torch.bool).tril(past) if new > 1 else None
        calls.append((q, k, v, mask, past == 0 and new > 1))

    def run() -> None:
        for q, k, v, mask, is_causal in calls:
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, None if is_causal else mask, is_causal=is_causal
            )

    return run


def work(case: AttentionCase, dtype: KVCacheDtype) -> tuple[int, int]:
    """Bytes of keys and values read, and multiply-adds times two."""
    bytes_per_head = case.spec.head_size + 4 if dtype == "int8" else 2 * case.spec.head_size
    bytes_per_token = 2 * case.spec.num_kv_heads * bytes_per_head
    num_bytes = sum((past + new) * bytes_per_token for past, new in case.requests)
    pairs = sum(new * past + new * (new + 1) // 2 for past, new in case.requests)
    return num_bytes, 4 * pairs * case.spec.num_heads * case.spec.head_size


def num_layers(case: AttentionCase, dtype: KVCacheDtype) -> int:
    """Layers to go through in turn: enough that a decode step's keys come from memory."""
    if any(new > 1 for _, new in case.requests):
        return 1
    num_bytes, _ = work(case, dtype)
    return max(1, min(MOST_LAYERS, STREAM_BYTES // num_bytes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", nargs="*", default=list(SPECS))
    parser.add_argument("--batches", nargs="*", default=list(BATCHES))
    parser.add_argument("--kv-cache-dtype", choices=("bf16", "int8"), default="bf16")
    parser.add_argument("--no-torch", action="store_true")
    args = parser.parse_args()
    dtype: KVCacheDtype = args.kv_cache_dtype
    ops = CpuOps(isa=args.isa, num_threads=args.threads)
    rng = np.random.default_rng(0)
    check(ops, rng, dtype)
    with_torch = torch is not None and not args.no_torch
    if with_torch:
        torch.set_num_threads(args.threads)
    results = {}
    for model in args.models:
        for batch in args.batches:
            case = AttentionCase(batch, SPECS[model], BATCHES[batch])
            inputs = attention_inputs(case, rng)
            layers = [fill(ops, case, inputs, dtype) for _ in range(num_layers(case, dtype))]
            calls = {
                "headrace": lambda i=inputs, all_of_them=layers, c=case: [
                    ops.attention(i.qkv, layer, i.step, c.spec) for layer in all_of_them
                ]
            }
            if with_torch:
                calls["torch"] = torch_call(case, rng)
            roof = probe_roof(args.threads)
            times = alternate(calls, args.rounds)
            times["headrace"] = [seconds / len(layers) for seconds in times["headrace"]]
            num_bytes, flop = work(case, dtype)
            row: dict[str, Any] = {name: summary(seconds) for name, seconds in times.items()}
            median_s = row["headrace"]["median_us"] * 1e-6
            row["gb_per_s"] = round(num_bytes / median_s / 1e9, 2)
            row["gflop_per_s"] = round(flop / median_s / 1e9, 1)
            row["share_of_read"] = round(num_bytes / median_s / roof.read_bytes_per_s, 3)
            row["share_of_bf16"] = round(2 * flop / median_s / roof.int8_ops_per_s, 3)
            if with_torch:
                row["ratio"] = round(row["torch"]["median_us"] / row["headrace"]["median_us"], 2)
            results[f"{model}/{batch}"] = row
            print(
                f"{model:14} {batch:18} {row['headrace']['median_us']:10.1f} us  "
                f"{row['gb_per_s']:6.1f} GB/s {row['share_of_read']:5.0%} of read  "
                f"{row['gflop_per_s']:8.1f} GFLOP/s {row['share_of_bf16']:5.0%} of bf16"
                + (f"  torch / headrace {row['ratio']:.2f}" if with_torch else "")
            )
    print_record(
        "attention", {"isa": ops.name, "threads": args.threads, "kv_cache_dtype": dtype}, results
    )


if __name__ == "__main__":
    main()
