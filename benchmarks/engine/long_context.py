"""What a long context costs: decode at 8,192 tokens beside none, prefill of 4,096 beside 512.

Rounds alternate the four, and engines whose keys and values are bf16 and int8, because shared
machines drift by 2x within minutes; a target is a ratio within its round. The long prompt of the
decode is computed once and taken from the prefix cache after that. Usage:

    make bench name=engine/long_context                  # prints, exits 1 below a target
    make bench name=engine/long_context args=--record    # also appends to benchmarks/results

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from floors import RESULTS, environment

from headrace.bench.measure import PromptSource, run_together
from headrace.config.resolve import resolve_config
from headrace.core.config import DEFAULT_MODEL
from headrace.core.machine import Roof
from headrace.launch.backends import open_engine
from headrace.launch.local_engine import LocalEngine

DECODE_TOKENS = 64
SHORT_PROMPT = 512
LONG_PROMPT = 4096
DECODE_RATIO = 0.80
"""Of the speed without context, at 8,192 tokens of it."""
PREFILL_RATIO = 0.80
"""Of the tokens per second of a prompt of 512, for one of 4,096."""


@dataclass(frozen=True, slots=True)
class Round:
    """One alternation. Units: tokens per second."""

    roof: Roof
    decode_empty: float
    decode_long: float
    prefill_short: float
    prefill_long: float

    @property
    def decode_ratio(self) -> float:
        return self.decode_long / self.decode_empty

    @property
    def prefill_ratio(self) -> float:
        return self.prefill_long / self.prefill_short


async def measure(
    engines: dict[str, LocalEngine], context: int, rounds: int
) -> dict[str, list[Round]]:
    """Rounds by the type of the KV cache."""
    found: dict[str, list[Round]] = {dtype: [] for dtype in engines}
    first = next(iter(engines.values()))
    prompts = PromptSource(first.vocab_size)
    long_prompt = prompts.prompt(context)
    try:
        for engine in engines.values():
            await engine.start()
            await run_together(engine, [prompts.prompt(64)], 4)
            await run_together(engine, [long_prompt], 1)
        for number in range(rounds):
            for dtype, engine in engines.items():
                found[dtype].append(await run_round(engine, prompts, long_prompt))
                show(number, dtype, found[dtype][-1])
    finally:
        for engine in engines.values():
            await engine.stop()
    return found


async def run_round(
    engine: LocalEngine, prompts: PromptSource, long_prompt: tuple[int, ...]
) -> Round:
    roof = engine.probe_roof()
    empty = await decode_speed(engine, prompts.prompt(16))
    long = await decode_speed(engine, long_prompt)
    short = await prefill_speed(engine, prompts.prompt(SHORT_PROMPT))
    return Round(roof, empty, long, short, await prefill_speed(engine, prompts.prompt(LONG_PROMPT)))


async def decode_speed(engine: LocalEngine, prompt: tuple[int, ...]) -> float:
    """Tokens per second after the first."""
    timing = await run_together(engine, [prompt], DECODE_TOKENS)
    return 1 / timing.requests[0].tpot_s


async def prefill_speed(engine: LocalEngine, prompt: tuple[int, ...]) -> float:
    """Prompt tokens per second until the first token."""
    timing = await run_together(engine, [prompt], 1)
    return len(prompt) / timing.requests[0].ttft_s


def show(number: int, dtype: str, found: Round) -> None:
    print(
        f"round {number + 1}, {dtype}: read {found.roof.read_bytes_per_s / 1e9:.1f} GB/s, "
        f"int8 {found.roof.int8_ops_per_s / 1e12:.2f} TOP/s | "
        f"decode {found.decode_empty:.1f}, with context {found.decode_long:.1f} tok/s = "
        f"{found.decode_ratio:.0%} | prefill of {SHORT_PROMPT} {found.prefill_short:.0f}, "
        f"of {LONG_PROMPT} {found.prefill_long:.0f} tok/s = {found.prefill_ratio:.0%}",
        flush=True,
    )


def median(rounds: list[Round], name: str) -> float:
    return float(statistics.median(getattr(each, name) for each in rounds))


def medians(rounds: list[Round]) -> dict[str, float]:
    names = [name for name in Round.__dataclass_fields__ if name != "roof"]
    return {name: median(rounds, name) for name in (*names, "decode_ratio", "prefill_ratio")}


def int8_gain(found: dict[str, list[Round]]) -> float:
    """Decode with context, int8 over bf16, round by round."""
    pairs = zip(found["int8"], found["bf16"], strict=True)
    return float(statistics.median(a.decode_long / b.decode_long for a, b in pairs))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--context", type=int, default=8192, help="tokens before the decode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kv-cache-dtype", nargs="+", default=["bf16", "int8"])
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    return parser.parse_args()


def open_engines(args: argparse.Namespace) -> dict[str, LocalEngine]:
    room = max(args.context, LONG_PROMPT) + DECODE_TOKENS + 32
    engines = {}
    for dtype in args.kv_cache_dtype:
        # Room for the context that stays cached, and for the prompts that are new in each round.
        flags = {
            "engine.max_model_len": room,
            "engine.max_num_seqs": 8,
            "engine.kv_cache_dtype": dtype,
        }
        config = resolve_config(flags, os.environ)
        engines[dtype] = open_engine(args.model, config, may_pull=True)
    return engines


def main() -> None:
    args = arguments()
    engines = open_engines(args)
    found = asyncio.run(measure(engines, args.context, args.rounds))
    record: dict[str, Any] = {
        "benchmark": "engine/long_context",
        **environment(),
        "model": args.model,
        "context": args.context,
        **next(iter(engines.values())).environment,
        "median": {dtype: medians(rounds) for dtype, rounds in found.items()},
        "rounds": {dtype: [asdict(each) for each in rounds] for dtype, rounds in found.items()},
    }
    record.pop("kv_cache_dtype")
    targets = {"decode_ratio": DECODE_RATIO, "prefill_ratio": PREFILL_RATIO}
    is_below = False
    for dtype, values in record["median"].items():
        for name, target in targets.items():
            is_below |= values[name] < target
            mark = "ok" if values[name] >= target else "BELOW"
            print(f"{dtype} {name:<16} {values[name]:.3f}  target {target:.2f}  {mark}")
    if {"bf16", "int8"} <= set(found):
        record["int8_gain"] = int8_gain(found)
        print(f"decode with context, int8 / bf16  {record['int8_gain']:.3f}")
    if args.record:
        path = RESULTS / f"{record['date']}-{record['ops']}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    sys.exit(is_below)


if __name__ == "__main__":
    main()
