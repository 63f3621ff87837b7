"""Mixed traffic at saturation against a real `headrace serve`, for hours: no error, no leak.

More clients than the server runs at once send every kind of request, go away in the middle of
streams, and send what is invalid; the KV cache is small, so that requests are preempted and
prefixes evicted. Afterwards the server must be as empty as before. Usage:

    make soak                       # two hours
    make soak args="--minutes 1"    # what `make test` runs
    make soak args=--record         # also appends to benchmarks/results

Ctrl-C ends it early and judges what there was. Exits 1 when a check fails. The last line of stdout
is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from floors import RESULTS, environment
from soak_traffic import MAX_MODEL_LEN, Answer, Ask, Traffic, faults

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "e2e"))
from served_model import ServedModel, serve

from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_config
from headrace.core.config import DEFAULT_MODEL, EngineConfig
from headrace.executor.memory import plan_capacity
from headrace.hub.model_store import ModelStore
from headrace.models.registry import model_class
from headrace.ops.table import make_ops
from headrace.weights.weight_reader import open_weights

NUM_BLOCKS = 40
"""KV blocks of the server: too few for all clients, so that requests are preempted."""
MAX_NUM_SEQS, NUM_CLIENTS = 24, 32
HANG_S = 180.0
SAMPLE_S, SHOW_EVERY = 2.0, 5
WARM_REQUESTS = 120
"""Sent before the time begins: KV blocks, buffers and caches of the tokenizer are touched once."""
GROWTH_MIB, GROWTH_MIB_PER_HOUR = 16.0, 16.0
"""What memory may grow after the warm-up: allocators settle for minutes, a leak goes on."""
TTFT_DRIFT, SHORT_S = 2.5, 600.0
"""Last third over first, medians. Shared machines drift by 2x. A shorter run is not judged: it has
few streams, of which the first find free seats, and says more of the machine than of the server."""
NEW_THREADS = 4
IDLE_S = 60.0


@dataclass(frozen=True)
class Sample:
    """The server at a moment. Units: seconds since the start, MiB."""

    at_s: float
    memory_mib: float
    num_threads: int
    num_files: int


@dataclass
class Findings:
    """What the clients saw."""

    sent: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    ttft: list[tuple[float, float]] = field(default_factory=list)
    canaries: dict[int, str] = field(default_factory=dict)
    output_tokens: int = 0

    def fail(self, kind: str, example: str) -> None:
        self.failures[kind] += 1
        if kind not in self.examples:
            self.examples[kind] = example[:600]
            print(f"{kind}: {self.examples[kind]}", flush=True)


def memory_for(path: Path, num_blocks: int) -> int:
    """Bytes for `--memory` that leave this many KV blocks."""
    with closing(open_weights(path)) as reader:
        config = model_class(reader.architecture).config_from_gguf(reader.metadata)
        engine = EngineConfig(max_num_seqs=MAX_NUM_SEQS, max_model_len=MAX_MODEL_LEN)
        free_bytes = detect_machine().memory_available_bytes
        plan = plan_capacity(config, reader, make_ops("cpu"), engine, free_bytes)
    return plan.total_bytes - plan.kv_bytes + num_blocks * (plan.kv_bytes // plan.num_blocks)


class Clients:
    """Requests one after another from each of NUM_CLIENTS."""

    def __init__(self, server: ServedModel, seed: int) -> None:
        self.server, self.found, self.begin_s = server, Findings(), time.monotonic()
        self.is_cut = False
        self.traffic = Traffic(server.model, seed)

    async def warm_up(self) -> None:
        """What goes wrong counts; times do not.

        First the largest steps there are, so that buffers have their size whatever comes together
        later: every seat chooses a token, then every position of a prompt is scored.
        """
        async with httpx.AsyncClient(base_url=self.server.address, timeout=HANG_S) as http:
            for ask in (self.traffic.every_seat(MAX_NUM_SEQS), self.traffic.every_position()):
                self.judge(ask, await self.exchange(http, ask))
        await self.run(lambda: self.is_cut or self.found.sent.total() >= WARM_REQUESTS)
        self.found.ttft.clear()
        self.found.output_tokens = 0

    async def run_for(self, seconds: float) -> None:
        self.begin_s = time.monotonic()
        await self.run(lambda: self.is_cut or time.monotonic() - self.begin_s > seconds)

    def cut(self) -> None:
        """End before the time."""
        self.is_cut = True

    async def run(self, is_over: Callable[[], bool]) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=NUM_CLIENTS)
        async with httpx.AsyncClient(
            base_url=self.server.address, timeout=HANG_S, limits=limits
        ) as http:
            await asyncio.gather(*(self.one_client(http, is_over) for _ in range(NUM_CLIENTS)))

    async def one_client(self, http: httpx.AsyncClient, is_over: Callable[[], bool]) -> None:
        while not is_over():
            ask = self.traffic.next()
            self.found.sent[ask.kind] += 1
            try:
                async with asyncio.timeout(HANG_S):
                    answer = await self.exchange(http, ask)
                self.judge(ask, answer)
            except TimeoutError:
                self.found.fail("hang", f"{ask.kind}: no end within {HANG_S:g} s: {ask.body!r}")
            except (httpx.HTTPError, ValueError, KeyError) as error:
                self.found.fail("broken", f"{ask.kind}: {error!r}: {ask.body!r}")
                if self.server.program.process.poll() is not None:
                    return
                await asyncio.sleep(1)

    async def exchange(self, http: httpx.AsyncClient, ask: Ask) -> Answer:
        sent_s = time.monotonic()
        body = ask.body if isinstance(ask.body, bytes) else json.dumps(ask.body).encode()
        headers = {"content-type": "application/json"}
        async with http.stream("POST", ask.route, content=body, headers=headers) as response:
            answer = Answer(response.status_code)
            if not response.headers["content-type"].startswith("text/event-stream"):
                answer.take(json.loads(await response.aread()))
                return answer
            num_events, has_text = 0, False
            async for line in response.aiter_lines():
                if ask.leaves_after is not None and num_events >= ask.leaves_after:
                    answer.has_left = True
                    return answer
                if not line.startswith("data: "):
                    continue
                num_events += 1
                if line == "data: [DONE]":
                    answer.is_done = True
                elif answer.take(json.loads(line[6:])) and not has_text:
                    has_text = True
                    now_s = time.monotonic()
                    self.found.ttft.append((now_s - self.begin_s, now_s - sent_s))
        return answer

    def judge(self, ask: Ask, answer: Answer) -> None:
        found = self.found
        found.output_tokens += (answer.usage or {}).get("completion_tokens", 0)
        if fault := faults(ask, answer):
            name = "5xx" if answer.status >= 500 else "wrong"
            found.fail(name, f"{ask.kind}: {fault}: {ask.body!r}")
        elif ask.canary is not None:
            first = found.canaries.setdefault(ask.canary, answer.texts[0])
            if answer.texts[0] != first:
                found.fail("other text", f"{ask.body!r}: {first!r}, then {answer.texts[0]!r}")


def open_files(process: Path) -> int:
    """Sockets and pipes each, files by name.

    The database's pool opens its file again for a further connection, as often as it may and not
    more: what keeps a connection ends in its timeout, which is a failure here.
    """
    opened: list[str] = []
    for entry in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            opened.append(str(entry.readlink()))
    files = {name for name in opened if name.startswith("/")}
    return len(files) + sum(not name.startswith("/") for name in opened)


def sample(server: ServedModel, begin_s: float) -> Sample:
    """Memory of its own, which is what leaks; pages of files come and go with the system.

    Of the server and its engine process together.
    """
    front = server.program.process.pid
    children = Path(f"/proc/{front}/task/{front}/children").read_text().split()
    memory_mib, num_threads, num_files = 0.0, 0, 0
    for process in (Path("/proc") / name for name in (str(front), *children)):
        text = (process / "status").read_text()
        status = dict(re.findall(r"^(\w+):\s+(\d+)", text, re.MULTILINE))
        memory_mib += int(status["RssAnon"]) / 1024
        num_threads += int(status["Threads"])
        num_files += open_files(process)
    return Sample(time.monotonic() - begin_s, memory_mib, num_threads, num_files)


async def watch(clients: Clients, samples: list[Sample]) -> None:
    """Take samples and show every fifth, until cancelled or the server cannot be asked."""
    try:
        await take_samples(clients, samples)
    except (OSError, httpx.HTTPError, AssertionError) as error:
        clients.found.fail("broken", f"watching the server: {error!r}")


async def take_samples(clients: Clients, samples: list[Sample]) -> None:
    server, found = clients.server, clients.found
    while True:
        await asyncio.sleep(SAMPLE_S)
        samples.append(sample(server, clients.begin_s))
        if len(samples) % SHOW_EVERY == 0:
            running, waiting, used = await asyncio.to_thread(gauges, server)
            print(
                f"{samples[-1].at_s:6.0f} s: {found.sent.total()} requests, "
                f"{found.sent['abort']} aborts, {found.failures.total()} failures, "
                f"{found.output_tokens / samples[-1].at_s:.0f} tok/s | running {running:.0f}, "
                f"waiting {waiting:.0f}, KV {used:.0%} | {samples[-1].memory_mib:.0f} MiB",
                flush=True,
            )


def gauges(server: ServedModel) -> tuple[float, float, float]:
    running, waiting, used = (
        server.metric(f"vllm:{name}")
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    )
    return running, waiting, used


async def becomes_idle(server: ServedModel, files_before: int) -> tuple[float, int]:
    """Wait for an empty server. Returns what is left: requests and KV use together, open files."""
    end_s = time.monotonic() + IDLE_S
    while True:
        left = sum(gauges(server)) + httpx.get(f"{server.address}/load").json()["server_load"]
        num_files = sample(server, 0).num_files - files_before
        if (left == 0 and num_files <= 0) or time.monotonic() > end_s:
            return left, num_files
        await asyncio.sleep(0.2)


@dataclass(frozen=True)
class Check:
    """A number and the most it may be."""

    name: str
    found: float
    most: float

    @property
    def is_kept(self) -> bool:
        return self.found <= self.most


def growth(samples: Sequence[Sample]) -> tuple[float, float]:
    """MiB that a line through the samples rises over their time, and what it may."""
    if len(samples) < 2:
        return math.inf, GROWTH_MIB
    times = [sample.at_s for sample in samples]
    line = statistics.linear_regression(times, [sample.memory_mib for sample in samples])
    span_s = times[-1] - times[0]
    return line.slope * span_s, max(GROWTH_MIB, GROWTH_MIB_PER_HOUR * span_s / 3600)


def drift(ttft: Sequence[tuple[float, float]], seconds: float) -> float:
    """Median TTFT of the last third of the time over that of the first."""
    first = [value for at_s, value in ttft if at_s < seconds / 3]
    last = [value for at_s, value in ttft if 2 * seconds / 3 <= at_s < seconds]
    if not (first and last):
        return math.inf
    return statistics.median(last) / statistics.median(first)


def checks(found: Findings, samples: Sequence[Sample], seconds: float) -> list[Check]:
    """What the clients saw, and how the process changed while they ran."""
    names = ("5xx", "hang", "broken", "wrong", "other text")
    result = [Check(f"failures: {name}", found.failures[name], 0) for name in names]
    result.append(Check("memory growth, MiB", *growth(samples)))
    if seconds >= SHORT_S:
        result.append(Check("TTFT, last third / first", drift(found.ttft, seconds), TTFT_DRIFT))
    new_threads = samples[-1].num_threads - samples[0].num_threads if samples else math.inf
    return [*result, Check("new threads", new_threads, NEW_THREADS)]


async def run_clients(clients: Clients, seconds: float, samples: list[Sample]) -> None:
    """The warm-up, then the load with the server watched."""
    await clients.warm_up()
    print(f"warm after {time.monotonic() - clients.begin_s:.0f} s", flush=True)
    clients.begin_s = time.monotonic()
    watcher = asyncio.create_task(watch(clients, samples))
    await clients.run_for(seconds)
    watcher.cancel()
    with suppress(asyncio.CancelledError):
        await watcher


async def end(server: ServedModel, files_before: int) -> tuple[list[Check], dict[str, float]]:
    """Let the server become idle and stop it as Ctrl-C does. Returns checks and counters."""
    code = server.program.process.poll()
    if code is not None:
        return [Check("died with code", abs(code), -1)], {}
    left, num_files = await becomes_idle(server, files_before)
    counters = {
        name: server.metric(f"vllm:{name}_total")
        for name in ("num_preemptions", "prefix_cache_hits", "generation_tokens")
    }
    server.program.interrupt()
    return [
        Check("left when idle: requests, KV blocks", left, 0),
        Check("left when idle: open files", num_files, 0),
        Check("exit code", abs(server.program.end()), 0),
        Check("tracebacks", server.program.stderr.count("Traceback"), 0),
    ], counters


async def soak(
    server: ServedModel, seconds: float, seed: int
) -> tuple[list[Check], dict[str, Any]]:
    """Checks, and what was measured."""
    await asyncio.to_thread(gauges, server)
    files_before = sample(server, 0).num_files
    clients = Clients(server, seed)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, clients.cut)
    samples: list[Sample] = []
    await run_clients(clients, seconds, samples)
    if clients.is_cut:
        seconds = time.monotonic() - clients.begin_s
    ends, counters = await end(server, files_before)
    found = clients.found
    result = [*checks(found, samples, seconds), *ends]
    return result, {
        "minutes": round(seconds / 60, 1),
        "sent": dict(found.sent),
        "failures": dict(found.failures),
        "examples": found.examples,
        "output_tokens": found.output_tokens,
        "output_tokens_per_s": found.output_tokens / seconds,
        "ttft_median_s": statistics.median([value for _, value in found.ttft] or [0.0]),
        "counters": counters,
        "memory_mib": [
            round(sample.memory_mib, 1) for sample in samples[:: len(samples) // 60 + 1]
        ],
    }


def main() -> None:
    # Ended from outside, it must end its server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    path = ModelStore(resolve_config({}, os.environ).hub).pull(arguments.model).path
    options = {
        "--memory": str(memory_for(path, NUM_BLOCKS)),
        "--max-num-seqs": str(MAX_NUM_SEQS),
        "--max-model-len": str(MAX_MODEL_LEN),
    }
    flags = [text for option in options.items() for text in option]
    # A home of its own: where one has a database, the server opens it when it is first asked for.
    with (
        tempfile.TemporaryDirectory() as folder,
        # Apart: Ctrl-C in the terminal is for the runner.
        serve(path, Path(folder), *flags, is_apart=True, HEADRACE_HOME=folder) as server,
    ):
        result, facts = asyncio.run(soak(server, 60 * arguments.minutes, arguments.seed))
    for kind, count in facts["sent"].items():
        print(f"{'sent: ' + kind:<38} {count:>10}")
    for name, value in facts["counters"].items():
        print(f"{name:<38} {value:>10.0f}")
    print(f"{'output tokens per s':<38} {facts['output_tokens_per_s']:>10.1f}")
    for check in result:
        mark = "ok" if check.is_kept else "FAILED"
        print(f"{check.name:<38} {check.found:>10.4g}  at most {check.most:<8.4g} {mark}")
    for name, example in facts["examples"].items():
        print(f"{name}: {example}")
    record = {
        "benchmark": "engine/soak",
        **environment(),
        "seed": arguments.seed,
        "clients": NUM_CLIENTS,
        "server": options,
        "checks": [asdict(check) | {"is_kept": check.is_kept} for check in result],
        **facts,
    }
    if arguments.record:
        with (RESULTS / f"{record['date']}-soak.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    sys.exit(not all(check.is_kept for check in result))


if __name__ == "__main__":
    main()
