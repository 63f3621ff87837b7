"""What a router and its client add to an answer: asked directly, and through a tier.

A bare server writes scripted frames; a headrace server has one tier, which is that server. A client
asks both in turns, one request at a time over kept connections, and reads when the first token
comes and when the answer ends. What is added is the difference of medians, at most 2 ms. Answers
are checked.

    make bench name=server/pass_through args=--record   # also appends to benchmarks/results

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))
from floors import RESULTS, environment

from headrace.bench.percentile import percentiles
from headrace.client.connection_pool import ConnectionPool
from headrace.client.endpoint import Endpoint, parse_endpoint
from headrace.client.event_stream import EventStreamDecoder
from headrace.core.clock import SystemClock

CEILING_MS = 2.0
NUM_TOKENS = 16
PACE_S = 0.002
BARE = Path(__file__).with_name("bare_server.py")


async def ask(pool: ConnectionPool, model: str) -> tuple[float, float, str]:
    """Milliseconds to the first token and to the end, and the text."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say a word, then another."}],
        "max_tokens": NUM_TOKENS,
        "stream": True,
    }
    headers = {"Content-Type": "application/json"}
    begin_s = time.perf_counter()
    exchange = await pool.ask("/chat/completions", headers, json.dumps(body).encode(), 20.0)
    decoder, texts, first_s = EventStreamDecoder(), [], 0.0
    try:
        while (piece := await exchange.piece(20.0)) is not None:
            for data in decoder.feed(piece):
                if data == b"[DONE]":
                    continue
                for choice in json.loads(data)["choices"]:
                    text = choice["delta"].get("content")
                    if text:
                        first_s = first_s or time.perf_counter()
                        texts.append(text)
    finally:
        exchange.close()
    end_s = time.perf_counter()
    return (first_s - begin_s) * 1e3, (end_s - begin_s) * 1e3, "".join(texts)


async def measure(
    bare: Endpoint, routed: Endpoint, num_requests: int
) -> dict[str, list[tuple[float, float]]]:
    """Both in turns, after a few that do not count."""
    pools = {
        "bare": (ConnectionPool(bare, 4, 5.0, SystemClock()), "script"),
        "routed": (ConnectionPool(routed, 4, 5.0, SystemClock()), "auto"),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in pools}
    for number in range(num_requests + 20):
        for name in sorted(pools, reverse=bool(number % 2)):
            first_ms, end_ms, text = await ask(*pools[name])
            assert text == " word" * NUM_TOKENS, text
            if number >= 20:
                found[name].append((first_ms, end_ms))
    for pool, _ in pools.values():
        pool.close()
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    found = percentiles(values, (50, 90, 99))
    return {f"p{p}": round(v, 3) for p, v in zip((50, 90, 99), found, strict=True)}


def start(command: Sequence[str], mark: str, **options: Any) -> tuple[subprocess.Popen[str], str]:
    """A server and the address in the line that has the mark."""
    process = subprocess.Popen(command, text=True, **options)
    stream = process.stdout or process.stderr
    assert stream is not None
    for line in stream:
        if mark in line:
            return process, line[line.index("http://") :].split()[0]
    process.kill()
    raise RuntimeError(f"{command} ended without {mark!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num-requests", type=int, default=300)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        bare, url = start(
            [sys.executable, str(BARE), str(PACE_S)], "http://", stdout=subprocess.PIPE
        )
        settings = Path(home) / "tiers.yaml"
        far = {"upstreams": {"far": {"url": f"{url}/v1"}}}
        tier = {"tiers": {"cheap": {"backends": [{"model": "script", "upstream": "far"}]}}}
        settings.write_text(json.dumps({"server": {"port": 0}, **far, **tier}))
        variables = os.environ | {"HEADRACE_HOME": home}
        command = [sys.executable, "-m", "headrace", "serve", "--config", str(settings)]
        routed, address = start(
            [*command, "--ledger", "on"], "ready at ", stderr=subprocess.PIPE, env=variables
        )
        try:
            found = asyncio.run(
                measure(
                    parse_endpoint(f"{url}/v1"), parse_endpoint(address), arguments.num_requests
                )
            )
        finally:
            for process in (routed, bare):
                process.terminate()
                process.communicate()
    first = {name: [pair[0] for pair in pairs] for name, pairs in found.items()}
    last = {name: [pair[1] for pair in pairs] for name, pairs in found.items()}
    added_ms = round(median(first["routed"]) - median(first["bare"]), 3)
    record = {
        "benchmark": "server/pass_through",
        **environment(),
        "num_requests": arguments.num_requests,
        "answer_tokens": NUM_TOKENS,
        "first_token_ms": {name: spread(values) for name, values in first.items()},
        "answer_ms": {name: spread(values) for name, values in last.items()},
        "added_first_token_ms_p50": added_ms,
        "added_answer_ms_p50": round(median(last["routed"]) - median(last["bare"]), 3),
    }
    print(f"added to the first token: {added_ms} ms at the median, of {CEILING_MS} allowed")
    if arguments.record:
        with (RESULTS / f"{record['date']}-server.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    sys.exit(added_ms > CEILING_MS)


if __name__ == "__main__":
    main()
