"""Speeds on a GPU: roofs, steps of a model, prefill, a stream of requests, each kernel alone.

In: ops, a shape and a timer. Out: medians in ms, each beside the time that its bytes or operations
take at the measured roof. A step is all that the engine waits for: inputs, layers, head, choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from engine_run import EngineRun
from shapes import Shape, decode_step, drawn, make_model, prefill_step
from vs_vllm import make_requests

from headrace.models.llama import Hidden
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.cuda.device_step import upload
from headrace.ops.cuda.step_replay import StepReplay
from headrace.ops.protocol import KVCacheDtype
from headrace.ops.step_inputs import StepInputs
from headrace.quant.quantize import quantize

FLUSH_BYTES = 1 << 28
"""Written between timed calls, so that no weight is found in the cache of the last one."""

Item = tuple[str, Callable[[], dict[str, Any]]]


@dataclass(frozen=True)
class Roof:
    """What the device did in probes; 0 where a probe is missing."""

    bytes_per_s: float = 0.0
    flops_per_s: float = 0.0

    def floor_ms(self, num_bytes: float, num_flops: float = 0.0) -> float | None:
        if not self.bytes_per_s or (num_flops and not self.flops_per_s):
            return None
        moved = num_bytes / self.bytes_per_s
        return 1e3 * max(moved, num_flops / self.flops_per_s if num_flops else 0.0)


class Timer:
    """Medians of single calls; events on a GPU, the clock in a dry run."""

    def __init__(self, device: str, rounds: int) -> None:
        self._is_gpu, self._rounds = device == "cuda", rounds
        self._flush = torch.empty(
            FLUSH_BYTES if self._is_gpu else 1, dtype=torch.int8, device=device
        )

    def median_ms(self, call: Callable[[], Any]) -> float:
        """Of rounds after warming up twice, caches flushed."""
        for _ in range(2):
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


def roofs(ops: CudaOps, timer: Timer, is_dry_run: bool) -> Iterator[Item]:
    """Bytes per second of a copy, and operations per second of a bf16 product."""
    size = 64 if is_dry_run else 8192

    def copy() -> dict[str, Any]:
        source = torch.empty(size * size * 8, dtype=torch.int8, device=ops.device)
        target = torch.empty_like(source)
        took = timer.median_ms(lambda: target.copy_(source))
        return {"ms": took, "bytes_per_s": 2 * source.numel() / took * 1e3}

    def product() -> dict[str, Any]:
        a = torch.randn((size, size), device=ops.device).to(ops.dtype)
        took = timer.median_ms(lambda: torch.mm(a, a))
        return {"ms": took, "flops_per_s": 2 * size**3 / took * 1e3}

    yield "copy", copy
    yield f"product {size}", product


class Steps:
    """A model of a shape with random weights, its steps replayed and eager."""

    def __init__(
        self,
        ops: CudaOps,
        shape: Shape,
        is_float8: bool = False,
        kv_dtype: KVCacheDtype = "bf16",
    ) -> None:
        made = make_model(ops, shape, is_float8, kv_dtype)
        self.model, self.cache, self.num_bytes = made
        self.ops, self.shape = ops, shape
        self.head_bytes = self.model.weights.head.matrices[0].num_bytes
        replay, choose = ops.record(self._forward), ops.record_choices(self._logits)
        assert replay is not None and choose is not None
        self.replay, self.eager = replay, StepReplay(ops, self._forward, None)
        self.choose = choose

    def _forward(self, given: Any, step: Any) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.model.over(given).forward(step, self.cache)
        return hidden.h, hidden.add

    def _logits(self, given: Any, step: Any) -> Iterator[torch.Tensor]:
        hidden = Hidden(*self._forward(given, step))
        rows = np.arange(len(step.logit_rows), dtype=np.int32)
        yield self.model.over(given).logits(hidden, rows)

    def whole(self, step: StepInputs) -> Any:
        """Up to a drawn token of each row, on the host."""
        known = np.full(len(step.token_ids), -1, np.int32)
        return self.choose(step, known, drawn(len(step.logit_rows)))()

    def floor_ms(self, roof: Roof, batch: int, context: int, has_head: bool) -> float | None:
        each = self.cache.num_bytes / self.cache.num_blocks / self.cache.block_size
        weights = self.num_bytes + (self.head_bytes if has_head else 0)
        # bf16: two bytes and two operations a weight; float8 half the bytes at twice the rate
        return roof.floor_ms(weights + batch * context * each, batch * weights)


def decode(ops: CudaOps, timer: Timer, shape: Shape, roof: Roof) -> Iterator[Item]:
    """Whole steps first, then what the graph alone takes, then the calls one by one."""
    steps = Steps(ops, shape)

    def item(kind: str, run: Callable[[StepInputs], Any], batch: int, context: int) -> Item:
        def call() -> dict[str, Any]:
            step = decode_step([context] * batch, steps.cache.block_size)
            took = timer.median_ms(lambda: run(step))
            floor = steps.floor_ms(roof, batch, context, kind == "whole")
            return {"ms": took, "floor_ms": floor, "note": f"{batch / took * 1e3:.0f} tokens/s"}

        return f"decode batch {batch} context {context} {kind}", call

    for kind, run in (("whole", steps.whole), ("replay", steps.replay), ("eager", steps.eager)):
        for batch, context in shape.decodes:
            yield item(kind, run, batch, context)


def decode_float8(ops: CudaOps, timer: Timer, shape: Shape, roof: Roof) -> Iterator[Item]:
    """Whole steps and a prompt with weights in float8; then the cache in float8 too."""

    def call(steps: Steps, step: StepInputs, floor: float | None) -> dict[str, Any]:
        took = timer.median_ms(lambda: steps.whole(step))
        rate = len(step.token_ids) / took * 1e3
        return {"ms": took, "floor_ms": floor, "note": f"{rate:.0f} tokens/s"}

    for kv_dtype in ("bf16", "fp8"):
        steps = Steps(ops, shape, True, kv_dtype)
        for batch, context in shape.decodes:
            step = decode_step([context] * batch, steps.cache.block_size)
            floor = steps.floor_ms(roof, batch, context, True)
            name = f"decode float8, cache {kv_dtype}, batch {batch} context {context}"
            yield name, partial(call, steps, step, floor)
        length = shape.prefills[-1]
        step = prefill_step([length], steps.cache.block_size)
        yield f"prefill float8, cache {kv_dtype}, {length}", partial(call, steps, step, None)


def prefill(ops: CudaOps, timer: Timer, shape: Shape, roof: Roof) -> Iterator[Item]:
    steps = Steps(ops, shape)

    def call(length: int) -> dict[str, Any]:
        step = prefill_step([length], steps.cache.block_size)
        took = timer.median_ms(lambda: steps.whole(step))
        spec = shape.spec
        attention = 2 * length**2 * spec.num_heads * spec.head_size * shape.num_layers
        floor = roof.floor_ms(steps.num_bytes, steps.num_bytes * length + attention)
        return {"ms": took, "floor_ms": floor, "note": f"{length / took * 1e3:.0f} tokens/s"}

    for length in shape.prefills:
        yield f"prefill {length}", partial(call, length)


def requests(ops: CudaOps, shape: Shape, is_dry_run: bool) -> Iterator[Item]:
    """Requests of mixed lengths, all at once, through scheduler and runner."""
    name = "dry-run" if is_dry_run else "mixed-1000"

    def call() -> dict[str, Any]:
        run = EngineRun(ops, shape)
        asked = [(each.prompt, each.num_output_tokens)
                 for each in make_requests(name, shape.vocab_size)]  # fmt: skip
        run.generate(asked[:: 1 if is_dry_run else 4])  # buckets are captured, kernels compiled
        start = time.perf_counter()
        rate = run.generate(asked)
        took = time.perf_counter() - start
        return {"ms": took * 1e3, "note": f"{rate:.0f} output tokens/s", "tokens_per_s": rate}

    yield f"{name} requests", call


def kernels(
    ops: CudaOps, timer: Timer, shape: Shape, roof: Roof, is_dry_run: bool
) -> Iterator[Item]:
    """Linears by format and rows, attention, norm and choice, each at the shape's sizes."""
    width, inner, spec = shape.hidden_size, shape.intermediate_size, shape.spec

    def linear(name: str, rows: int) -> dict[str, Any]:
        rng = np.random.default_rng(1)
        few = quantize(rng.standard_normal((32, width)).astype(np.float32) * 0.02, name)
        weight = ops.pack_linear([few.take_rows(np.arange(inner) % 32)])
        x = torch.randn((rows, width), device=ops.device).to(ops.dtype)
        floor = roof.floor_ms(weight.matrices[0].num_bytes, 2.0 * inner * width * rows)
        return {"ms": timer.median_ms(lambda: ops.linear(x, weight)), "floor_ms": floor}

    def attention(lengths: list[int], is_prefill: bool) -> dict[str, Any]:
        make = prefill_step if is_prefill else decode_step
        step = make(lengths, 64)
        cache = ops.allocate_kv([spec], int(step.block_table.max()) + 1, 64)
        layer = cache.layers[0]
        for half in (layer.k, layer.v):
            half.data.normal_()
        qkv = torch.randn((len(step.token_ids), spec.qkv_width), device=ops.device).to(ops.dtype)
        sent = upload(step, ops.device)
        took = timer.median_ms(lambda: ops.attention(qkv, layer, sent, spec))
        pairs = sum(length**2 / 2 if is_prefill else length for length in lengths)
        flops = 4.0 * pairs * spec.num_heads * spec.head_size
        return {"ms": took, "floor_ms": roof.floor_ms(cache.num_bytes, flops),
                "note": f"{flops / took / 1e9:.0f} TFLOP/s"}  # fmt: skip

    def norm(rows: int) -> dict[str, Any]:
        h = torch.randn((rows, width), device=ops.device).to(ops.dtype)
        ones = torch.ones(width, dtype=torch.float32, device=ops.device)
        floor = roof.floor_ms(2.0 * h.numel() * h.element_size())
        return {"ms": timer.median_ms(lambda: ops.rms_norm(h, ones, 1e-5)), "floor_ms": floor}

    def choose(rows: int, top_p: float) -> dict[str, Any]:
        logits = torch.randn((rows, shape.vocab_size), device=ops.device)
        inputs = drawn(rows, top_p)
        floor = roof.floor_ms(4.0 * logits.numel())
        return {"ms": timer.median_ms(lambda: ops.sample(logits, inputs)), "floor_ms": floor}

    for name in ("bf16",) if is_dry_run else ("bf16", "f8_e4m3", "q8_0", "q4_k"):
        for rows in shape.row_counts:
            yield f"linear {inner}x{width} {name} rows {rows}", partial(linear, name, rows)
    for batch, context in shape.decodes:
        call = partial(attention, [context] * batch, False)
        yield f"attention batch {batch} context {context}", call
    for length in shape.prefills:
        yield f"attention prefill {length}", partial(attention, [length], True)
    yield "rms_norm rows 64", partial(norm, 64)
    for rows in (1,) if is_dry_run else (1, 64):
        for top_p in (1.0, 0.9):
            yield f"sample rows {rows} top_p {top_p}", partial(choose, rows, top_p)
