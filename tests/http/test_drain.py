"""Stopping: running requests finish, new ones are refused, and a limit ends what is left."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from headrace.core.config import ServerConfig

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STOPPING = {
    "message": "The server is shutting down. Send the request again later.",
    "type": "server_error",
    "param": None,
    "code": None,
}


def gated_backend() -> tuple[FakeBackend, asyncio.Event]:
    gate = asyncio.Event()

    async def wait(_: object, step: int) -> None:
        if step == 2:
            await gate.wait()

    return FakeBackend(before_step=wait), gate


def in_loop(server: RunningServer, function: Callable[[], object]) -> None:
    """Run a function in the server's loop and wait for it."""

    async def run() -> None:
        function()

    asyncio.run_coroutine_threadsafe(run(), server.loop).result(60)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_running_requests_finish_and_new_ones_are_refused(is_streamed: bool) -> None:
    backend, gate = gated_backend()
    with ThreadPoolExecutor() as pool, run_server(backend) as server:
        with server.client() as client, server.client() as other:
            body = BODY | {"stream": is_streamed}
            running = pool.submit(client.post, CHAT, json=body)
            assert backend.wait_until(lambda: backend.num_running == 1)
            in_loop(server, server.server.stop)
            for refused in (other.get("/health"), other.post(CHAT, json=BODY)):
                assert refused.status_code == 503
                assert refused.json()["error"] == STOPPING
                assert refused.headers["retry-after"] == "5"
            assert other.get("/load").json() == {"server_load": 1}
            server.call(gate.set)
            reply: httpx.Response = running.result(60)
        assert reply.status_code == 200
        assert " 🌊!" in reply.text
        assert reply.text.endswith("data: [DONE]\n\n") is is_streamed
        server.thread.join(60)
        assert not server.thread.is_alive()
    assert backend.closed == []


@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_runs_past_the_limit_is_told_so(
    is_streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "headrace.server.app")
    backend, _ = gated_backend()
    config = ServerConfig(shutdown_timeout_s=0.1)
    with ThreadPoolExecutor() as pool, run_server(backend, config) as server:
        with server.client() as client:
            running = pool.submit(client.post, CHAT, json=BODY | {"stream": is_streamed})
            assert backend.wait_until(lambda: backend.num_running == 1)
            in_loop(server, server.server.stop)
            reply: httpx.Response = running.result(60)
        server.thread.join(60)
        assert not server.thread.is_alive()
    assert len(backend.closed) == 1
    if is_streamed:
        assert reply.status_code == 200
        *_, last, rest = reply.text.split("\n\n")
        assert rest == ""
        assert json.loads(last.removeprefix("data: "))["error"] == STOPPING
    else:
        assert reply.status_code == 503
        assert reply.json()["error"] == STOPPING
    # Of a stream the status tells nothing.
    assert ("200 broken off: " in caplog.text) is is_streamed


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_second_signal_ends_what_runs_with_an_error(
    is_streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend, _ = gated_backend()
    config = ServerConfig(shutdown_timeout_s=600)
    caplog.set_level("INFO", "headrace.server.run")
    with ThreadPoolExecutor() as pool, run_server(backend, config) as server:
        with server.client() as client:
            running = pool.submit(client.post, CHAT, json=BODY | {"stream": is_streamed})
            assert backend.wait_until(lambda: backend.num_running == 1)
            for _ in range(2):
                in_loop(server, lambda: server.server.handle_exit(signal.SIGINT, None))
            reply: httpx.Response = running.result(60)
        server.thread.join(60)
        assert not server.thread.is_alive()
    frame = reply.text.split("\n\n")[-2].removeprefix("data: ") if is_streamed else reply.text
    assert json.loads(frame)["error"] == STOPPING
    assert caplog.messages == ["stopping; 1 request is still running", "stopped"]


def test_an_idle_server_stops_at_once(server: RunningServer) -> None:
    with server.client() as client:
        assert client.get("/health").status_code == 200
        in_loop(server, server.server.stop)
        in_loop(server, server.server.stop)
        server.thread.join(60)
    assert not server.thread.is_alive()
