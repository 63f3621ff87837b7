"""Requests that share a beginning: time to first token of the 2nd to 32nd beside the first's.

Every round takes a new beginning of 1,000 tokens, sends it with a question, cold, and then with 31
other questions one after another. Each finds the beginning's full blocks in the prefix cache and
computes the rest. Usage:

    make bench name=engine/shared_prefix                 # prints, exits 1 above the limit
    make bench name=engine/shared_prefix args=--record   # also appends to benchmarks/results

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
from headrace.launch.backends import open_engine
from headrace.launch.local_engine import LocalEngine

PREFIX_TOKENS = 1000
QUESTION_TOKENS = 16
NUM_REQUESTS = 32
MAX_SHARE = 0.10
"""Of the cold request's time to first token, for each of the others."""


@dataclass(frozen=True, slots=True)
class Round:
    """Units: seconds."""

    cold_s: float
    warm_s: list[float]

    @property
    def worst_share(self) -> float:
        return max(self.warm_s) / self.cold_s

    @property
    def median_share(self) -> float:
        return statistics.median(self.warm_s) / self.cold_s


async def measure(engine: LocalEngine, rounds: int) -> list[Round]:
    prompts = PromptSource(engine.vocab_size)
    await engine.start()
    try:
        await run_together(engine, [prompts.prompt(64)], 4)
        found = []
        for number in range(rounds):
            prefix = prompts.prompt(PREFIX_TOKENS)
            ttfts = [
                await ttft(engine, prefix + prompts.prompt(QUESTION_TOKENS))
                for _ in range(NUM_REQUESTS)
            ]
            found.append(Round(ttfts[0], ttfts[1:]))
            print(
                f"round {number + 1}: cold {ttfts[0] * 1e3:.0f} ms, then "
                f"{statistics.median(ttfts[1:]) * 1e3:.0f} ms = {found[-1].median_share:.1%}, "
                f"at worst {found[-1].worst_share:.1%}",
                flush=True,
            )
        return found
    finally:
        await engine.stop()


async def ttft(engine: LocalEngine, prompt: tuple[int, ...]) -> float:
    return (await run_together(engine, [prompt], 1)).requests[0].ttft_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    args = parser.parse_args()
    engine = open_engine(args.model, resolve_config({}, os.environ), may_pull=True)
    rounds = asyncio.run(measure(engine, args.rounds))
    share = statistics.median(each.median_share for each in rounds)
    worst = statistics.median(each.worst_share for each in rounds)
    print(f"warm / cold, median {share:.1%}, worst of {NUM_REQUESTS - 1} {worst:.1%}", end="")
    print(f"  limit {MAX_SHARE:.0%}  {'ok' if worst <= MAX_SHARE else 'ABOVE'}")
    record: dict[str, Any] = {
        "benchmark": "engine/shared_prefix",
        **environment(),
        "model": args.model,
        **engine.environment,
        "median_share": share,
        "worst_share": worst,
        "rounds": [asdict(each) for each in rounds],
    }
    if args.record:
        path = RESULTS / f"{record['date']}-{record['ops']}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    sys.exit(worst > MAX_SHARE)


if __name__ == "__main__":
    main()
