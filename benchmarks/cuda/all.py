"""Everything to be known of the CUDA kernels on a GPU, in one call of some minutes.

First correctness, in bf16 on fresh random inputs against float64, outputs poisoned: a wrong kernel
is not timed. Then roofs (copy bandwidth, bf16 products), each kernel beside its floor, and a decode
step and a prefill of a model's shape with random weights, eager and as a graph. The last line is
one JSON record; `--out` keeps it with the table.

    python benchmarks/cuda/all.py --out results/            # an H200
    TRITON_INTERPRET=1 python benchmarks/cuda/all.py --dry-run   # no GPU: the script itself
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes import SHAPES, Shape, decode_step, make_model, prefill_step

from headrace.core.errors import ConfigError
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.protocol import AttentionSpec
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize

BF16_ERROR = 2e-2
"""Largest error over the largest value: inputs and results of 8 bits, sums of a few hundred."""
FLUSH_BYTES = 1 << 28
"""Written between timed calls, so that no weight is found in the cache of the last one."""


@dataclass(frozen=True)
class Row:
    """One measurement. `floor_ms` is what the roof allows, None where there is none."""

    name: str
    median_ms: float
    floor_ms: float | None
    note: str = ""


class Timer:
    """Medians of single calls; events on a GPU, the clock in a dry run."""

    def __init__(self, device: str, rounds: int) -> None:
        self._is_gpu, self._rounds = device == "cuda", rounds
        self._flush = torch.empty(
            FLUSH_BYTES if self._is_gpu else 1, dtype=torch.int8, device=device
        )

    def median_ms(self, call: Callable[[], Any]) -> float:
        """Of rounds after warming up, caches flushed."""
        call()
        return float(np.median([self._once(call) for _ in range(self._rounds)]))

    def _once(self, call: Callable[[], Any]) -> float:
        self._flush.zero_()
        if not self._is_gpu:
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * 1e3
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))


def check_ops(ops: CudaOps, rng: np.random.Generator) -> dict[str, float]:
    """Largest relative errors per op against float64. Raises: SystemExit where one is too large."""
    exact = ReferenceOps(np.float64)
    errors = {}
    for name in ("bf16", "q4_k", "q6_k", "q8_0"):
        tensor = quantize(rng.standard_normal((48, 512)).astype(np.float32) / 8, name)
        for num_rows in (1, 5, 20):
            x = as_bf16(rng.standard_normal((num_rows, 512)))
            wanted = exact.linear(x.astype(np.float64), exact.pack_linear([tensor]))
            found = ops.to_host(ops.linear(send(ops, x), ops.pack_linear([tensor])))
            errors[f"linear {name} rows {num_rows}"] = relative(found, wanted)
    h, add = (as_bf16(rng.standard_normal((5, 896))) for _ in range(2))
    weight = rng.standard_normal(896).astype(np.float32)
    wanted = exact.rms_norm((h + add).astype(np.float64), weight.astype(np.float64), 1e-6)
    vector = ops.pack_vector(QuantTensor.from_array(weight))
    errors["rms_norm"] = relative(
        ops.to_host(ops.rms_norm(send(ops, h), vector, 1e-6, send(ops, add))), wanted
    )
    for name, spec in (
        ("d128", AttentionSpec(8, 2, 128, 128**-0.5)),
        ("d64", AttentionSpec(14, 2, 64, 0.125)),
    ):
        for kind, lengths in (("decode", [1, 70]), ("chunk", [40, 3])):
            errors[f"attention {name} {kind}"] = check_attention(ops, exact, rng, spec, lengths)
    bad = {name: error for name, error in errors.items() if not error < BF16_ERROR}
    if bad:
        raise SystemExit(f"wrong results, nothing is timed: {bad}")
    return errors


def check_attention(
    ops: CudaOps,
    exact: ReferenceOps,
    rng: np.random.Generator,
    spec: AttentionSpec,
    lengths: list[int],
) -> float:
    """Chunks of these lengths, then one more token each; blocks that nobody wrote are NaN."""
    step = prefill_step(lengths, 64)
    after = decode_step([length + 1 for length in lengths], 64)
    num_blocks = int(max(step.block_table.max(), after.block_table.max())) + 1
    caches = [each.allocate_kv([spec], num_blocks, 64).layers[0] for each in (ops, exact)]
    caches[0].k.data.fill_(float("nan"))
    caches[0].v.data.fill_(float("nan"))
    worst = 0.0
    for each in (step, after):
        qkv = as_bf16(rng.standard_normal((len(each.token_ids), spec.qkv_width)))
        ops.store_kv(send(ops, qkv), caches[0], each.slot_mapping, spec)
        exact.store_kv(qkv.astype(np.float64), caches[1], each.slot_mapping, spec)
        found = ops.to_host(ops.attention(send(ops, qkv), caches[0], each, spec))
        worst = max(
            worst, relative(found, exact.attention(qkv.astype(np.float64), caches[1], each, spec))
        )
    return worst


def send(ops: CudaOps, x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x).to(ops.device, ops.dtype)


def as_bf16(x: np.ndarray) -> np.ndarray:
    """Values that bf16 holds exactly."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    error = float(np.abs(found - wanted).max()) / max(float(np.abs(wanted).max()), 1e-30)
    return error if np.isfinite(found).all() else float("inf")


def probe_roofs(ops: CudaOps, timer: Timer, size: int) -> tuple[float, float]:
    """Bytes per second of a copy, and operations per second of a bf16 product."""
    source = torch.empty(size * size * 8, dtype=torch.int8, device=ops.device)
    target = torch.empty_like(source)
    copy_ms = timer.median_ms(lambda: target.copy_(source))
    a = torch.randn((size, size), device=ops.device).to(ops.dtype)
    product_ms = timer.median_ms(lambda: torch.mm(a, a))
    return 2 * source.numel() / copy_ms * 1e3, 2 * size**3 / product_ms * 1e3


def time_kernels(ops: CudaOps, timer: Timer, shape: Shape, bandwidth: float) -> list[Row]:
    """One layer's linears by format and rows, against the bytes of their weights."""
    rows = []
    rng = np.random.default_rng(1)
    width, inner = shape.hidden_size, shape.intermediate_size
    for name in ("bf16", "q8_0", "q4_k"):
        few = quantize(rng.standard_normal((32, width)).astype(np.float32) * 0.02, name)
        part = few.take_rows(np.arange(inner) % 32)
        weight = ops.pack_linear([part])
        floor = weight.matrices[0].num_bytes / bandwidth * 1e3
        for num_rows in shape.row_counts:
            x = torch.randn((num_rows, width), device=ops.device).to(ops.dtype)
            rows.append(
                Row(f"linear {inner}x{width} {name} rows {num_rows}",
                    timer.median_ms(lambda x=x, w=weight: ops.linear(x, w)), floor)
            )  # fmt: skip
    return rows


def time_model(ops: CudaOps, timer: Timer, shape: Shape, bandwidth: float) -> list[Row]:
    """Decode steps by batch, eager and replayed, and a prefill, over random weights."""
    model, cache, num_bytes = make_model(ops, shape)

    def forward(given: Any, step: Any) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = model.over(given).forward(step, cache)
        return hidden.h, hidden.add

    replay = ops.record(forward)
    rows = []
    for batch, context in shape.decodes:
        step = decode_step([context] * batch, cache.block_size)
        kv_bytes = batch * context * cache.num_bytes / cache.num_blocks / cache.block_size
        floor = (num_bytes + kv_bytes) / bandwidth * 1e3
        for kind, run in (("eager", lambda s: model.forward(s, cache)), ("replay", replay)):
            took = timer.median_ms(lambda run=run, step=step: run(step))
            rows.append(Row(f"decode batch {batch} context {context} {kind}", took, floor,
                            f"{batch / took * 1e3:.0f} tokens/s"))  # fmt: skip
    for length in shape.prefills:
        step = prefill_step([length], cache.block_size)
        took = timer.median_ms(lambda step=step: replay(step))
        rows.append(Row(f"prefill {length}", took, None, f"{length / took * 1e3:.0f} tokens/s"))
    return rows


def print_table(rows: list[Row]) -> str:
    lines = [f"{'what':48} {'ms':>9} {'floor':>9} {'share':>6}"]
    for row in rows:
        floor = "-" if row.floor_ms is None else f"{row.floor_ms:.3f}"
        share = "-" if row.floor_ms is None else f"{row.floor_ms / row.median_ms:.0%}"
        lines.append(f"{row.name:48} {row.median_ms:9.3f} {floor:>9} {share:>6} {row.note}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each (20)")
    parser.add_argument(
        "--seed", type=int, default=None, help="of the inputs; the clock's if absent"
    )
    parser.add_argument("--out", type=Path, help="a folder for the table and the JSON record")
    parser.add_argument("--dry-run", action="store_true",
                        help="CPU tensors, the interpreter, a tiny shape, one round")  # fmt: skip
    arguments = parser.parse_args()
    device = "cpu" if arguments.dry_run else "cuda"
    try:
        ops = CudaOps(device, torch.float32 if arguments.dry_run else torch.bfloat16)
    except ConfigError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    shape = SHAPES["dry-run" if arguments.dry_run else arguments.shape]
    seed = time.time_ns() if arguments.seed is None else arguments.seed
    errors = check_ops(ops, np.random.default_rng(seed))
    print(f"correct: {len(errors)} cases, worst {max(errors.values()):.1e} (seed {seed})")
    timer = Timer(device, 1 if arguments.dry_run else arguments.rounds)
    bandwidth, operations = probe_roofs(ops, timer, 64 if arguments.dry_run else 8192)
    rows = time_kernels(ops, timer, shape, bandwidth) + time_model(ops, timer, shape, bandwidth)
    table = print_table(rows)
    print(table)
    record = json.dumps({
        "name": "cuda/all", "ops": ops.name, "shape": arguments.shape, "torch": torch.__version__,
        "is_dry_run": arguments.dry_run, "bytes_per_s": bandwidth, "flops_per_s": operations,
        "errors": errors, "rows": [asdict(row) for row in rows],
    })  # fmt: skip
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "cuda-all.txt").write_text(table + "\n")
        (arguments.out / "cuda-all.json").write_text(record + "\n")
    print(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
