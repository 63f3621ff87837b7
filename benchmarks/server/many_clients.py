"""Hundreds of streaming clients at once against a real `headrace serve`: nobody is lost.

Each client sends its next request when its last answer has ended. A full server may refuse with
429 and a Retry-After, which the client heeds; anything else that is no whole answer is an error.
Afterwards the server must be empty. Usage:

    make bench name=server/many_clients                             # 200 clients, 5 minutes
    make bench name=server/many_clients args="--minutes 1"
    make bench name=server/many_clients args=--record               # appends to benchmarks/results

Exits 1 on an error. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks" / "engine"), str(ROOT / "tests" / "e2e")]
from floors import RESULTS, environment  # noqa: E402
from openai import APIError, AsyncOpenAI, RateLimitError  # noqa: E402
from served_model import ServedModel, serve  # noqa: E402

from headrace.bench.percentile import percentiles  # noqa: E402
from headrace.core.config import DEFAULT_MODEL  # noqa: E402

MAX_TOKENS = 24
PERCENTS = (50, 90, 99)


@dataclass
class Seen:
    """What all clients saw. Units: seconds."""

    ends: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    output_tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)
    e2e_s: list[float] = field(default_factory=list)


async def one_client(
    client: AsyncOpenAI, model: str, number: int, end_s: float, seen: Seen
) -> None:
    """Requests one after another. Mutates: seen."""
    turn = 0
    while time.monotonic() < end_s:
        turn += 1
        begin_s = time.monotonic()
        try:
            tokens, first_s = await ask(client, model, f"Client {number}, turn {turn}: say a word.")
        except RateLimitError as error:
            wait_s = error.response.headers.get("retry-after")
            seen.ends["429" if wait_s else "429 without Retry-After"] += 1
            await asyncio.sleep(float(wait_s or 1))
        except (APIError, ValueError, OSError) as error:
            seen.ends["error"] += 1
            seen.errors.append(f"{type(error).__name__}: {error}"[:300])
            await asyncio.sleep(1)
        else:
            seen.ends["answer"] += 1
            seen.output_tokens += tokens
            seen.ttft_s.append(first_s - begin_s)
            seen.e2e_s.append(time.monotonic() - begin_s)


async def ask(client: AsyncOpenAI, model: str, text: str) -> tuple[int, float]:
    """(output tokens, moment of the first text).

    Raises: APIError; ValueError for a stream that ends without saying why or without usage.
    """
    first_s, reason, tokens = 0.0, None, None
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        max_tokens=MAX_TOKENS,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            if choice.delta.content and not first_s:
                first_s = time.monotonic()
    if reason != "length" or tokens != MAX_TOKENS or not first_s:
        raise ValueError(f"an answer ended with {reason!r} after {tokens} tokens")
    return tokens, first_s


async def run(server: ServedModel, num_clients: int, seconds: float, seen: Seen) -> None:
    end_s = time.monotonic() + seconds
    client = AsyncOpenAI(
        base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=300
    )
    async with client:
        show = asyncio.create_task(show_progress(seen, end_s))
        await asyncio.gather(
            *(one_client(client, server.model, n, end_s, seen) for n in range(num_clients))
        )
        show.cancel()
        with suppress(asyncio.CancelledError):
            await show


async def show_progress(seen: Seen, end_s: float) -> None:
    while True:
        await asyncio.sleep(15)
        left_s = max(0.0, end_s - time.monotonic())
        print(f"{left_s:4.0f} s left: {dict(seen.ends)}", flush=True)


def spread(values: Sequence[float]) -> dict[str, float]:
    found = percentiles(values, PERCENTS) if values else [0.0] * len(PERCENTS)
    return {f"p{percent}": round(value, 2) for percent, value in zip(PERCENTS, found, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder, serve(arguments.model, Path(folder)) as server:
        begin_s = time.monotonic()
        asyncio.run(run(server, arguments.clients, arguments.minutes * 60, seen))
        wall_s = time.monotonic() - begin_s
        server.wait_until_idle()
    record: dict[str, Any] = {
        "benchmark": "server/many_clients",
        **environment(),
        "num_clients": arguments.clients,
        "wall_s": round(wall_s, 1),
        "ends": dict(seen.ends),
        "errors": seen.errors[:5],
        "output_tokens_per_s": round(seen.output_tokens / wall_s, 1),
        "ttft_s": spread(seen.ttft_s),
        "e2e_s": spread(seen.e2e_s),
    }
    for name in ("ends", "errors", "output_tokens_per_s", "ttft_s", "e2e_s"):
        print(f"{name:<22} {record[name]}")
    if arguments.record:
        with (RESULTS / f"{record['date']}-server.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    sys.exit(bool(set(seen.ends) - {"answer", "429"}) or not seen.ends["answer"])


if __name__ == "__main__":
    main()
