"""A real server on a free port, over FakeBackend, for real clients."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from openai import OpenAI

from fakes.fake_backend import FakeBackend
from fakes.running_engine import Recorder
from headrace.core.clock import Clock, SystemClock
from headrace.core.config import ServerConfig
from headrace.core.telemetry import Metric
from headrace.economics.accounts import Accounts
from headrace.server.app import HeadraceApp
from headrace.server.kept_responses import KeptResponses, OpenStore
from headrace.server.listener import listen
from headrace.server.run import DrainingServer, address_of
from headrace.server.services import BuildOf, Services, StorageDoor, unknown_build


class FixedMetrics(Recorder):
    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def gauge(self, metric: Metric) -> list[float]:
        return [self.gauges[metric.name]] if metric.name in self.gauges else []

    def render(self) -> bytes:
        return b"headrace_up 1\n"


@dataclass
class RunningServer:
    """A served app; `call` runs a function in the server's loop."""

    address: str
    app: HeadraceApp
    backend: FakeBackend
    loop: asyncio.AbstractEventLoop
    server: DrainingServer
    thread: threading.Thread
    metrics: FixedMetrics

    @property
    def host_and_port(self) -> tuple[str, int]:
        url = httpx.URL(self.address)
        return url.host, url.port or 0

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=60)

    def openai(self, api_key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.address}/v1", api_key=api_key, max_retries=0, timeout=60)

    def call(self, function: Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(function)


@contextmanager
def raw_post(
    server: RunningServer, path: str, body: Mapping[str, Any], **headers: str
) -> Iterator[socket.socket]:
    """A request as bytes on a socket; the client is gone when the block ends."""
    content = json.dumps(body).encode()
    named = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(content))}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    with socket.create_connection(server.host_and_port, timeout=60) as raw:
        raw.sendall("\r\n".join([*lines, "", ""]).encode() + content)
        yield raw


@contextmanager
def run_server(
    backend: FakeBackend | None = None,
    config: ServerConfig | None = None,
    accounts: Accounts | None = None,
    clock: Clock | None = None,
    certificate: ssl.SSLContext | None = None,
    open_responses: OpenStore | None = None,
    storage: StorageDoor | None = None,
    build_of: BuildOf = unknown_build,
) -> Iterator[RunningServer]:
    backend = backend or FakeBackend()
    metrics = FixedMetrics()
    app = HeadraceApp(
        Services(
            backend,
            config or ServerConfig(port=0),
            metrics,
            "9.9",
            clock or SystemClock(),
            accounts or Accounts(),
            kept=KeptResponses(open_responses),
            storage=storage,
            build_of=build_of,
        )
    )
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    server = DrainingServer(app, listener, ready.set, certificate)
    loop = asyncio.new_event_loop()

    def run() -> None:
        loop.run_until_complete(server.serve_requests())
        loop.close()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    assert ready.wait(60)
    running = RunningServer(
        address_of(listener, bool(certificate)), app, backend, loop, server, thread, metrics
    )
    try:
        yield running
    finally:
        if thread.is_alive():
            running.call(lambda: setattr(server, "should_exit", True))
        thread.join(60)
        assert not thread.is_alive()
