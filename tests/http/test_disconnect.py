"""A client that leaves stops its request, at every stage, and nobody else's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, raw_post, run_server
from fakes.usage import eventually
from headrace.core.config import ServerConfig
from headrace.core.request import GenerateRequest

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


async def wait_forever(*_: object) -> None:
    await asyncio.Event().wait()


def wait_at(step: int) -> Callable[[GenerateRequest, int], Awaitable[None]]:
    async def wait(_: GenerateRequest, current: int) -> None:
        if current == step:
            await wait_forever()

    return wait


def read_until(raw: socket.socket, wanted: bytes) -> bytes:
    received = b""
    while wanted not in received:
        chunk = raw.recv(4096)
        assert chunk, received
        received += chunk
    return received


def check_stopped(server: RunningServer, num_closed: int) -> None:
    backend = server.backend
    assert backend.wait_until(lambda: backend.num_running == 0)
    assert len(backend.closed) == num_closed
    with server.client() as client:
        eventually(lambda: client.get("/load").json()["server_load"] == 0)
        backend.admission = backend.before_step = None
        assert client.post(CHAT, json=BODY).status_code == 200


@pytest.mark.parametrize("is_streamed", [False, True])
def test_while_it_is_admitted(is_streamed: bool) -> None:
    stopped: list[str] = []

    async def admit(request: GenerateRequest) -> None:
        try:
            await wait_forever()
        finally:
            stopped.append(request.request_id)
            backend.notify()

    backend = FakeBackend(admission=admit)
    with run_server(backend) as server:
        with raw_post(server, CHAT, BODY | {"stream": is_streamed}):
            assert backend.wait_until(lambda: len(backend.requests) == 1)
        assert backend.wait_until(lambda: len(stopped) == 1)
        check_stopped(server, 0)


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_while_a_whole_answer_is_made(path: str, step: int) -> None:
    backend = FakeBackend(before_step=wait_at(step))
    body = BODY | {"prompt": "hi"}
    with run_server(backend) as server:
        with raw_post(server, path, body):
            assert backend.wait_until(lambda: backend.num_running == 1)
        check_stopped(server, 1)


@pytest.mark.parametrize("heartbeat_s", [0.02, 60.0])
def test_while_a_stream_waits_in_the_queue(heartbeat_s: float) -> None:
    backend = FakeBackend(before_step=wait_at(0))
    with run_server(backend, ServerConfig(heartbeat_s=heartbeat_s)) as server:
        with raw_post(server, CHAT, BODY | {"stream": True}) as raw:
            assert backend.wait_until(lambda: backend.num_running == 1)
            if heartbeat_s < 1:
                head = read_until(raw, b": waiting\n\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                assert b"text/event-stream" in head
        check_stopped(server, 1)


def test_in_the_middle_of_a_stream() -> None:
    backend = FakeBackend(before_step=wait_at(2))
    with run_server(backend) as server:
        with raw_post(server, CHAT, BODY | {"stream": True}) as raw:
            assert b'"Hello"' in read_until(raw, b'"content":","')
        check_stopped(server, 1)


def test_every_prompt_of_a_call_is_stopped() -> None:
    backend = FakeBackend(before_step=wait_at(1))
    with run_server(backend) as server:
        body = {"model": "tiny", "prompt": ["a", "b", "c"], "stream": True}
        with raw_post(server, "/v1/completions", body) as raw:
            read_until(raw, b'"index":2')
            assert backend.num_running == 3
        check_stopped(server, 3)


def test_a_refused_prompt_stops_the_others_of_its_call() -> None:
    async def refuse_third(request: GenerateRequest) -> None:
        if len(backend.requests) == 3:
            raise ZeroDivisionError

    backend = FakeBackend(admission=refuse_third, before_step=wait_forever)
    with run_server(backend) as server:
        with server.client() as client:
            body = {"model": "tiny", "prompt": ["a", "b", "c"]}
            assert client.post("/v1/completions", json=body).status_code == 500
        check_stopped(server, 2)


def test_before_the_body_is_complete(server: RunningServer) -> None:
    with socket.create_connection(server.host_and_port, timeout=60) as raw:
        raw.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Content-Length: 50\r\n\r\n{"model": '
        )
    check_stopped(server, 0)
    assert len(server.backend.requests) == 1


def test_a_reader_that_does_not_read_stalls_only_itself_and_can_leave() -> None:
    many = ["x" * 5000] * 5000
    backend = FakeBackend(pieces=many)
    with run_server(backend) as server:
        with raw_post(server, CHAT, BODY | {"stream": True}) as raw:
            read_until(raw, b"xxx")
            slow_id = backend.requests[0].request_id
            with server.openai() as client:
                for _ in range(3):
                    answer = client.chat.completions.create(
                        model="tiny", messages=BODY["messages"], max_tokens=3
                    )
                    assert answer.choices[0].message.content == "x" * 15000
            # 25 MB do not fit into the socket's buffers: the slow stream still waits.
            assert backend.num_running == 1
        check_stopped_slow = backend.wait_until(lambda: backend.closed == [slow_id])
        assert check_stopped_slow


def test_many_that_leave_at_random_points_leave_nothing_behind() -> None:
    async def pause(_: object, step: int) -> None:
        await asyncio.sleep(0)

    backend = FakeBackend(pieces=["y"] * 400, before_step=pause)
    with run_server(backend) as server:
        for round_ in range(60):
            with raw_post(server, CHAT, BODY | {"stream": round_ % 3 > 0}) as raw:
                if round_ % 3 == 2:
                    raw.recv(1 + 37 * round_)
        assert backend.wait_until(lambda: backend.num_running == 0)
        with server.client() as client:
            eventually(lambda: client.get("/load").json()["server_load"] == 0)
