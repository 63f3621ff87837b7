"""Where a step's time goes, op by op: one row, 32 rows, and a prompt of 512 tokens.

Every op of the model is timed where the model calls it, through the model runner that the engine
uses. Linears say what they reach, beside the probes of the same round: weights are read once per
call, so few rows are held against the read bandwidth, many against the int8 peak. `the rest` is
Python: laying out the batch, and what stands between two ops. The engine replays a step as one call
(docs/design/0005), which leaves most of that out: its time is given below.

    python benchmarks/kernels/step_breakdown.py [--model qwen2.5-coder:0.5b] [--rounds 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from timing import print_record, print_table

from headrace.config.resolve import resolve_config
from headrace.core.config import DEFAULT_MODEL
from headrace.core.machine import Roof
from headrace.core.request import SamplingParams
from headrace.core.step import NewRequest, ScheduledRequest, SchedulerOutput
from headrace.executor.load import load_weights
from headrace.executor.model_runner import ModelRunner
from headrace.hub.model_store import ModelStore
from headrace.models.registry import model_class
from headrace.ops.table import make_ops, probe_roof
from headrace.weights.weight_reader import open_weights

BLOCK_SIZE, PROMPT, CONTEXT, MANY = 32, 512, 512, 32
MANY_CONTEXT = 128
FEW_ROWS = 16


class TimedOps:
    """Ops whose calls are timed; a linear goes under the name of its weight."""

    def __init__(self, ops: Any) -> None:
        self.ops = ops
        self.seconds: dict[str, float] = defaultdict(float)
        self.weights: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.ops, name)
        return self.timed(name, found) if callable(found) else found

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **more)
            finally:
                weight = self.weights.get(id(args[1])) if len(args) > 1 else None
                key = f"{name} {weight}" if weight else name
                self.seconds[key] += time.perf_counter() - start

        return run


@dataclass
class Bench:
    """A model behind timed ops, and the numbers of requests and steps so far."""

    runner: ModelRunner
    ops: TimedOps
    step_id: int = 0
    num_requests: int = 0
    rows: dict[str, tuple[list[int], int]] = field(default_factory=dict)

    def step(self, scheduled: list[ScheduledRequest], new: list[NewRequest] | None = None) -> float:
        """Seconds of one step."""
        output = SchedulerOutput(self.step_id, tuple(scheduled), tuple(new or ()))
        self.step_id += 1
        start = time.perf_counter()
        self.runner.submit(output)
        self.runner.collect()
        return time.perf_counter() - start

    def prompts(self, num_requests: int, num_tokens: int) -> float:
        """Prompts of one step each after the other, in blocks of their own; seconds of the last."""
        blocks = -(-(num_tokens + 64) // BLOCK_SIZE)
        self.rows = {}
        seconds = 0.0
        for index in range(num_requests):
            name = f"r{self.num_requests}"
            self.num_requests += 1
            ids = [1000 + (37 * self.num_requests + j) % 50_000 for j in range(num_tokens)]
            table = list(range(index * blocks, (index + 1) * blocks))
            self.rows[name] = (table, num_tokens)
            new = NewRequest(name, ids, SamplingParams(temperature=0), 0)
            seconds = self.step([ScheduledRequest(name, ids, 0, table, 1, True)], [new])
        return seconds

    def decode(self) -> float:
        """One token for every request."""
        scheduled = []
        for name, (table, length) in self.rows.items():
            scheduled.append(ScheduledRequest(name, [1234], length, table, 1, True))
            self.rows[name] = (table, length + 1)
        return self.step(scheduled)


@dataclass(frozen=True)
class Work:
    """What the linears of one name read in a step, and what they multiply by each row.

    After the last attention of a prompt only its last row goes on, so there the last layer counts
    for qkv alone, and the head has one row.
    """

    num_bytes: int
    num_weights: int
    prompt_weights: int


@dataclass
class Found:
    """Medians of one kind of step, op by op and replayed. Units: seconds."""

    step_s: float
    ops_s: dict[str, float]
    replayed_s: float


def measure(benches: Sequence[Bench], run: Callable[[Bench], float], count: int) -> Found:
    """The median step, and each op's median over the steps; the first step does not count.

    The eager bench and the replayed one take turns.
    """
    eager, replayed = benches
    steps, ops, replays = [], [], []
    for index in range(count + 1):
        eager.ops.seconds.clear()
        seconds = run(eager)
        ops_s = dict(eager.ops.seconds)
        replayed_s = run(replayed)
        if index:
            steps.append(seconds)
            ops.append(ops_s)
            replays.append(replayed_s)
    medians = {name: statistics.median(one.get(name, 0.0) for one in ops) for name in ops[0]}
    return Found(statistics.median(steps), medians, statistics.median(replays))


def load(model: str, num_threads: int) -> tuple[Sequence[Bench], dict[str, Work]]:
    """An eager and a replaying runner, and the work of linears under the names of their ops."""
    local = ModelStore(resolve_config({}, os.environ).hub).pull(model)
    reader = open_weights(local.path)
    kind = model_class(reader.architecture)
    config = kind.config_from_gguf(reader.metadata)
    ops = TimedOps(make_ops("cpu", num_threads=num_threads))
    weights = load_weights(kind, config, reader, ops.ops, 2048)
    found = {}
    for name in ("qkv", "o", "gate_up", "down"):
        packed = [getattr(layer, name) for layer in weights.layers]
        ops.weights |= {id(weight): name for weight in packed}
        op = "gated_linear" if name == "gate_up" else "linear"
        found[f"{op} {name}"] = work(packed, packed if name == "qkv" else packed[:-1])
    found["logits"] = work([weights.head], [])
    num_blocks = MANY * -(-(MANY_CONTEXT + 64) // BLOCK_SIZE)
    caches = [ops.ops.allocate_kv(config.attention, num_blocks, BLOCK_SIZE) for _ in range(2)]
    eager = ModelRunner(kind(ops, config, weights), caches[0], ops, is_eager=True)
    replaying = ModelRunner(kind(ops.ops, config, weights), caches[1], ops.ops)
    return [Bench(eager, ops), Bench(replaying, ops)], found


def work(packed: list[Any], of_prompts: list[Any]) -> Work:
    return Work(
        sum(weight.num_bytes for weight in packed),
        sum(weight.num_columns * weight.depth for weight in packed),
        sum(weight.num_columns * weight.depth for weight in of_prompts),
    )


def reached(work: Work, seconds: float, num_rows: int, roof: Roof) -> tuple[str, str]:
    """What a linear reaches, and its share of the roof."""
    num_weights = work.prompt_weights if num_rows == PROMPT else work.num_weights
    if num_rows <= FEW_ROWS or not num_weights:
        rate = work.num_bytes / seconds
        return f"{rate / 1e9:.1f} GB/s", f"{rate / roof.read_bytes_per_s:.0%} of read"
    rate = 2 * num_weights * num_rows / seconds
    return f"{rate / 1e12:.2f} TOP/s", f"{rate / roof.int8_ops_per_s:.0%} of int8"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    benches, work = load(args.model, args.threads)
    results = []
    for _ in range(args.rounds):
        roof = probe_roof(args.threads)
        prefill = measure(benches, lambda bench: bench.prompts(1, PROMPT), 2)
        found = {f"prefill of {PROMPT}": (prefill, PROMPT)}
        found[f"1 row at {CONTEXT}"] = (measure(benches, Bench.decode, 16), 1)
        for bench in benches:
            bench.prompts(MANY, MANY_CONTEXT)
        found[f"{MANY} rows at {MANY_CONTEXT}"] = (measure(benches, Bench.decode, 8), MANY)
        results.append((roof, found))
    # The round in which the machine gave most: probes and steps of one moment.
    roof, found = max(results, key=lambda one: one[0].int8_ops_per_s)
    print(
        f"{args.model}, {args.threads} threads, read {roof.read_bytes_per_s / 1e9:.1f} GB/s, "
        f"int8 {roof.int8_ops_per_s / 1e12:.2f} TOP/s"
    )
    for name, (step, num_rows) in found.items():
        ops = sorted(step.ops_s.items(), key=lambda item: -item[1])
        ops.append(("the rest", step.step_s - sum(step.ops_s.values())))
        table = [
            [
                key,
                f"{1e3 * seconds:.2f}",
                f"{seconds / step.step_s:.1%}",
                *(reached(work[key], seconds, num_rows, roof) if key in work else ("", "")),
            ]
            for key, seconds in ops
        ]
        print()
        print_table([name, "ms", "of the step", "reaches", "share"], table)
        for kind, seconds in (("step, eager", step.step_s), ("step, replayed", step.replayed_s)):
            print(f"{kind:<20} {1e3 * seconds:.2f} ms, {num_rows / seconds:.1f} tokens/s")
    record = [
        {
            "read_bytes_per_s": roof.read_bytes_per_s,
            "int8_ops_per_s": roof.int8_ops_per_s,
            "steps": {
                name: {"step_ms": 1e3 * step.step_s, "replayed_ms": 1e3 * step.replayed_s}
                | {"ops_ms": {key: 1e3 * s for key, s in step.ops_s.items()}}
                for name, (step, _) in found.items()
            },
        }
        for roof, found in results
    ]
    print_record("kernels/step_breakdown", {"model": args.model, "threads": args.threads}, record)


if __name__ == "__main__":
    main()
