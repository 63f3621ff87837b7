"""What the server adds to a request: everything between a socket and a backend that costs nothing.

The backend answers from a script, its first token at once and the others 20 ms apart. Beside it, in
turns, the same client asks `bare_server.py`, which writes the same frames and reads nothing: the
difference is the server's, parsing, the key, limits, the stream, the usage row in SQLite. Two
loads: requests that arrive at a rate, and as many short ones as go. Usage:

    make bench name=server/overhead                 # prints, exits 1 above 2 ms at the median
    make bench name=server/overhead args=--record   # also appends to benchmarks/results

Servers are processes of their own. The last line of stdout is one JSON object.
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
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from headrace.bench.http_target import HttpTarget
from headrace.bench.load import LoadRun
from headrace.bench.outcome import Outcome
from headrace.bench.percentile import percentiles
from headrace.bench.workload import Ask, poisson_arrivals
from headrace.client.endpoint import parse_endpoint
from headrace.config.resolve import resolve_config
from headrace.core.backend import Health, ModelInfo
from headrace.core.output import CompletionDelta, RequestOutput, RequestTimes
from headrace.core.request import GenerateRequest
from headrace.core.usage import Usage
from headrace.core.version import headrace_version
from headrace.launch.accounts import AccountsWatch
from headrace.observe.prometheus import PrometheusMetrics
from headrace.server.app import HeadraceApp
from headrace.server.listener import listen
from headrace.server.run import DrainingServer, address_of
from headrace.server.services import Services

sys.path.insert(0, str(Path(__file__).parent.parent / "engine"))
from floors import RESULTS, environment

PACE_S = 0.02
ANSWER_TOKENS = 16
ADDED_TTFT_CEILING_MS = 2.0
MODEL = "script"


class ScriptedBackend:
    """A Backend that answers at once, and then at its pace."""

    _models = (ModelInfo(MODEL, 4096, 0, MODEL, template_variables=frozenset()),)

    def models(self) -> Sequence[ModelInfo]:
        return self._models

    def health(self) -> Health:
        return Health("ready")

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        return self._steps(request, request.sampling.max_tokens or ANSWER_TOKENS)

    async def _steps(
        self, request: GenerateRequest, num_tokens: int
    ) -> AsyncGenerator[RequestOutput, None]:
        begin_s = time.perf_counter()
        for step in range(num_tokens):
            # Against the beginning, so that a late step does not delay the next.
            await asyncio.sleep(max(0.0, begin_s + step * PACE_S - time.perf_counter()))
            is_last = step == num_tokens - 1
            delta = CompletionDelta(0, " word", (7,), finish_reason="length" if is_last else None)
            yield RequestOutput(
                request.request_id,
                (delta,),
                Usage(16, 0, step + 1),
                is_finished=is_last,
                times=RequestTimes(0.0, 0.0, step * PACE_S, 0.0, step * PACE_S)
                if is_last
                else None,
            )


def serve() -> None:
    """The server process: prints its address, serves until it is told to end."""
    config = resolve_config({}, os.environ)
    watch, metrics = AccountsWatch(config), PrometheusMetrics(MODEL)
    accounts = watch.open()

    @asynccontextmanager
    async def follow_accounts() -> AsyncIterator[None]:
        watch.start(metrics)
        yield
        await asyncio.to_thread(watch.close)

    services = Services(
        ScriptedBackend(), config.server, metrics, headrace_version(), accounts=accounts
    )
    app = HeadraceApp(services, follow_accounts)
    listener = listen("127.0.0.1", 0)
    server = DrainingServer(app, listener, lambda: print(address_of(listener), flush=True))
    asyncio.run(server.serve_requests())


async def measure(
    url: str, key: str, server: psutil.Process, num_requests: int, rate_per_s: float
) -> dict[str, Any]:
    """Both loads, after a few requests that do not count."""
    target = HttpTarget(parse_endpoint(url), MODEL, api_key=key)
    run = LoadRun(target, 60.0, lambda outcome: None)
    await run.closed(asks(50, 2), 8)
    arrivals_s = poisson_arrivals(num_requests, rate_per_s, seed=1)
    before_s = processor_s(server)
    paced = await run.open(asks(num_requests, ANSWER_TOKENS), arrivals_s)
    paced_processor_s = processor_s(server) - before_s
    begin_s, before_s = time.perf_counter(), processor_s(server)
    short = await run.closed(asks(2 * num_requests, 1), 32)
    short_s = time.perf_counter() - begin_s
    short_processor_s = processor_s(server) - before_s
    scripted_ms = (ANSWER_TOKENS - 1) * PACE_S * 1e3
    return {
        "failed": sum(outcome.failure is not None for outcome in [*paced, *short]),
        "ttft_ms": spread([ttft_ms(outcome) for outcome in paced]),
        "added_e2e_ms": spread([(o.e2e_s or 0) * 1e3 - scripted_ms for o in paced]),
        "client_delay_ms": spread([outcome.send_delay_s * 1e3 for outcome in paced]),
        "short_requests_per_s": round(len(short) / short_s, 1),
        "server_processor_ms": {
            "per_short_request": round(short_processor_s / len(short) * 1e3, 3),
            "per_paced_request": round(paced_processor_s / len(paced) * 1e3, 3),
        },
    }


def processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def asks(count: int, max_tokens: int) -> list[Ask]:
    return [Ask(index, "Say a word, then another.", max_tokens) for index in range(count)]


def ttft_ms(outcome: Outcome) -> float:
    """From when it was sent: a client that is late is not the server."""
    first_s = outcome.event_s[0] if outcome.event_s else outcome.end_s
    return (first_s - outcome.sent_s) * 1e3


def spread(values: Sequence[float]) -> dict[str, float]:
    found = percentiles(values, (50, 90, 99))
    return {
        f"p{percent}": round(value, 3) for percent, value in zip((50, 90, 99), found, strict=True)
    }


def create_key(variables: dict[str, str]) -> str:
    """A key in the folder's database; to serve with one is the usual case."""
    command = [sys.executable, "-m", "headrace", "keys", "create", "bench"]
    made = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return next(word for word in made.stdout.split() if word.startswith("hr_"))


def measure_one(
    command: list[str], variables: dict[str, str], key: str, load: tuple[int, float]
) -> dict[str, Any]:
    """Start a server, put the loads on it, end it."""
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            return asyncio.run(measure(url, key, psutil.Process(process.pid), *load))
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second")
    parser.add_argument("--num-requests", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    with tempfile.TemporaryDirectory() as home:
        variables = os.environ | {"HEADRACE_HOME": home}
        commands = {
            "headrace": [sys.executable, __file__, "--serve"],
            "bare": [sys.executable, str(Path(__file__).with_name("bare_server.py")), str(PACE_S)],
        }
        key = create_key(variables)
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
        for number in range(arguments.rounds):
            for name in sorted(commands, reverse=bool(number % 2)):
                load = (arguments.num_requests, arguments.rate)
                rounds[name].append(measure_one(commands[name], variables, key, load))
    ours, bare = rounds["headrace"], rounds["bare"]
    added = {
        percent: round(
            median(
                [
                    a["ttft_ms"][percent] - b["ttft_ms"][percent]
                    for a, b in zip(ours, bare, strict=True)
                ]
            ),
            3,
        )
        for percent in ("p50", "p90", "p99")
    }
    num_failed = sum(found["failed"] for found in [*ours, *bare])
    for name, found in rounds.items():
        for one in found:
            print(f"{name:<9} {one}")
    print(f"added to the time to the first token, ms: {added}; failed {num_failed}")
    record = {
        "benchmark": "server/overhead",
        **environment(),
        "rate_per_s": arguments.rate,
        "num_requests": arguments.num_requests,
        "answer_tokens": ANSWER_TOKENS,
        "added_ttft_ms": added,
        "failed": num_failed,
        "rounds": rounds,
    }
    if arguments.record:
        with (RESULTS / f"{record['date']}-server.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    sys.exit(bool(num_failed) or added["p50"] > ADDED_TTFT_CEILING_MS)


if __name__ == "__main__":
    main()
