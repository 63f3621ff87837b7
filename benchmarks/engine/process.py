"""The engine in a process of its own beside one in a thread: time per step, and to the first token.

Both engines load the same model; rounds alternate between them, and only one computes at a time.
First their answers are compared. A ratio below 1 means that the process is faster. Usage:

    make bench name=engine/process                 # prints
    make bench name=engine/process args=--record   # also appends to benchmarks/results

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from floors import RESULTS, environment

from headrace.bench.measure import PromptSource, RunTiming, run_together
from headrace.config.resolve import resolve_config
from headrace.core.config import DEFAULT_MODEL
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.telemetry import NoMetrics
from headrace.launch.backends import open_engine
from headrace.launch.engine_backend import EngineBackend
from headrace.launch.engine_start import start_engine
from headrace.launch.supervised_engine import finish_engine

STREAMS = (1, 32)
PROMPT_TOKENS = 16
MEMORY = "1GiB"


async def answer_of(engine: EngineBackend) -> tuple[int, ...]:
    """A sampled answer, for the comparison before the measurement."""
    sampling = SamplingParams(temperature=1.0, seed=1, max_tokens=32, ignore_eos=True)
    request = GenerateRequest(
        request_id="same", model=engine.model_info.name, prompt="Rivers", sampling=sampling
    )
    tokens: list[int] = []
    async for output in await engine.generate(request):
        tokens += output.deltas[0].token_ids
    return tuple(tokens)


async def measure(
    engines: dict[str, EngineBackend], rounds: int, num_tokens: int
) -> dict[str, dict[int, list[RunTiming]]]:
    """Runs per engine and number of streams, in alternating rounds."""
    for engine in engines.values():
        await engine.start()
    answers = {await answer_of(engine) for engine in engines.values()}
    if len(answers) != 1:
        raise RuntimeError("The engines answer differently.")
    prompts = PromptSource(100_000)
    found: dict[str, dict[int, list[RunTiming]]] = {
        name: {streams: [] for streams in STREAMS} for name in engines
    }
    for _ in range(rounds):
        for streams in STREAMS:
            for name, engine in engines.items():
                batch = [prompts.prompt(PROMPT_TOKENS) for _ in range(streams)]
                found[name][streams].append(await run_together(engine, batch, num_tokens))
    for engine in engines.values():
        await engine.stop()
    return found


def tpot_ms(run: RunTiming) -> float:
    """Mean time per token of the run's requests, which share their steps."""
    return 1000 * statistics.mean(request.tpot_s for request in run.requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    args = parser.parse_args()
    config = resolve_config({"engine.memory_bytes": MEMORY}, os.environ)
    engines: dict[str, EngineBackend] = {
        "process": finish_engine(start_engine(config, args.model), lambda _: NoMetrics()),
        "thread": open_engine(args.model, config, may_pull=True),
    }
    found = asyncio.run(measure(engines, args.rounds, args.tokens))
    results: dict[str, Any] = {}
    for streams in STREAMS:
        process, thread = (found[name][streams] for name in ("process", "thread"))
        ratios = [tpot_ms(a) / tpot_ms(b) for a, b in zip(process, thread, strict=True)]
        first = [
            statistics.median(r.ttft_s for r in a.requests)
            / statistics.median(r.ttft_s for r in b.requests)
            for a, b in zip(process, thread, strict=True)
        ]
        results[str(streams)] = {
            "process_ms": [tpot_ms(run) for run in process],
            "thread_ms": [tpot_ms(run) for run in thread],
            "ratio": statistics.median(ratios),
            "ttft_ratio": statistics.median(first),
        }
        print(
            f"{streams:>3} streams: {statistics.median(map(tpot_ms, process)):.2f} ms a token in "
            f"the process, {statistics.median(map(tpot_ms, thread)):.2f} in the thread; ratio "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), "
            f"first token {statistics.median(first):.3f}"
        )
    record = {
        "benchmark": "engine/process",
        **environment(),
        "model": args.model,
        **engines["thread"].environment,
        "streams": results,
    }
    if args.record:
        path = RESULTS / f"{record['date']}-{record['ops']}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
