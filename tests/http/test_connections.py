"""What a connection may cost: silent, trickling, unread, too many, no HTTP at all, TLS."""

from __future__ import annotations

import asyncio
import gc
import json
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.certificates import make_certificate
from fakes.fake_backend import FakeBackend
from fakes.fake_clock import FakeClock
from fakes.served_app import RunningServer, run_server
from fakes.usage import eventually
from headrace.core.config import ServerConfig
from headrace.core.request import GenerateRequest
from headrace.server.tls import load_certificate

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
HEAD = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def connect(server: RunningServer) -> Iterator[socket.socket]:
    with socket.create_connection(server.host_and_port, timeout=60) as raw:
        yield raw


def read_to_end(raw: socket.socket) -> bytes:
    """Everything until the server closes; a reset ends it too."""
    received = b""
    try:
        while chunk := raw.recv(65536):
            received += chunk
    except ConnectionError:
        pass
    return received


def trickle(raw: socket.socket, line: bytes) -> int:
    """Send a byte now and then until the server hangs up; how many it took."""
    num_sent = 0
    try:
        while True:
            readable, _, _ = select.select([raw], [], [], 0.02)
            if readable and not raw.recv(65536):
                return num_sent
            raw.sendall(line[num_sent % len(line) :][:1])
            num_sent += 1
            assert num_sent < 5000
    except ConnectionError:
        return num_sent


def check_answers(server: RunningServer) -> None:
    with server.client() as client:
        assert client.post(CHAT, json=BODY).status_code == 200


@pytest.fixture(scope="module")
def impatient() -> Iterator[RunningServer]:
    with run_server(config=ServerConfig(header_timeout_s=0.5)) as server:
        yield server


@pytest.fixture(scope="module")
def patient() -> Iterator[RunningServer]:
    with run_server() as server:
        yield server


@pytest.mark.parametrize("beginning", [b"", b"G", HEAD])
def test_a_connection_that_says_nothing_more_is_closed(
    impatient: RunningServer, beginning: bytes
) -> None:
    with connect(impatient) as raw:
        raw.sendall(beginning)
        assert read_to_end(raw) == b""


def test_a_head_that_trickles_in_is_given_up(impatient: RunningServer) -> None:
    with connect(impatient) as raw:
        raw.sendall(HEAD)
        assert trickle(raw, b"x-header: y\r\n") > 0


def test_a_body_nobody_reads_keeps_no_connection(impatient: RunningServer) -> None:
    with connect(impatient) as raw:
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert trickle(raw, b"x") > 0


def test_a_kept_connection_waits_between_requests(impatient: RunningServer) -> None:
    """The time is for a head that has begun, not for the pause before it."""
    with impatient.client() as client:
        first = client.get("/v1/models")
        with connect(impatient) as raw:
            assert read_to_end(raw) == b""  # longer than a head may take
        assert client.get("/v1/models").status_code == first.status_code == 200


@pytest.mark.parametrize("is_stream", [True, False])
def test_the_head_comes_with_the_beginning_of_the_body(
    patient: RunningServer, is_stream: bool
) -> None:
    body = json.dumps(BODY | {"stream": is_stream}).encode()
    with connect(patient) as raw:
        raw.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head, _, rest = raw.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert rest


def test_what_the_server_loaded_is_not_looked_through_again() -> None:
    """The collector's longest pass would stop every stream for 50 ms and more."""
    gc.unfreeze()
    with run_server():
        assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_silent_connections_do_not_stall_others(patient: RunningServer) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(patient)).sendall(HEAD)
        check_answers(patient)


def test_connections_beyond_the_limit_are_told_to_come_back() -> None:
    config = ServerConfig(max_connections=2)
    with run_server(config=config) as server, ExitStack() as stack:
        held = [stack.enter_context(connect(server)) for _ in range(2)]
        for raw in held:
            raw.sendall(HEAD + b"\r\n")
            assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")
        with server.client() as client:
            refused = client.post(CHAT, json=BODY)
            assert client.get("/health").status_code == 200
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "slow_down")
        assert "2 connections are open" in error["message"]
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
        held[0].close()
        eventually(lambda: httpx.get(f"{server.address}/v1/models").status_code == 200)


def test_bodies_beyond_the_common_limit_are_told_to_come_back() -> None:
    """One body is being received and one is answered: together they leave no room for a third."""
    config = ServerConfig(port=0, max_body_bytes=4096, max_total_body_bytes=8192)
    backend, gate = FakeBackend(), threading.Event()

    async def hold(request: GenerateRequest, step: int) -> None:
        while step and not gate.is_set():
            await asyncio.sleep(0.01)

    backend.before_step = hold
    # Time stands still: nobody is slow.
    with (
        run_server(backend, config, clock=FakeClock()) as server,
        server.client() as client,
        connect(server) as slow,
    ):
        bodies = server.app.services.bodies
        long = BODY | {"user": "x" * 3750}
        with client.stream("POST", CHAT, json=long | {"stream": True}) as answered:
            slow.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                b"Content-Type: application/json\r\nContent-Length: 3900\r\n\r\n"
                b'{"model":"' + b"x" * 3800
            )
            eventually(lambda: bodies.num_bytes > 7600)
            refused = client.post(CHAT, json=long)
            assert refused.status_code == 503
            assert int(refused.headers["retry-after"]) >= 1
            assert "max_total_body_bytes" in refused.json()["error"]["message"]
            assert client.get("/v1/models").status_code == 200
            gate.set()
            assert answered.read().endswith(b"data: [DONE]\n\n")
        slow.close()
        eventually(lambda: bodies.num_bytes == 0)
        assert client.post(CHAT, json=long).status_code == 200
        eventually(lambda: bodies.num_bytes == 0)


def test_a_slow_body_makes_way_when_its_room_is_needed() -> None:
    """Two bodies hold all of the room and send no more; time that passes makes them slow."""
    config = ServerConfig(port=0, max_body_bytes=4096, max_total_body_bytes=8192)
    clock, long = FakeClock(), BODY | {"user": "x" * 3750}
    begun = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        b"Content-Type: application/json\r\nContent-Length: 3900\r\n\r\n"
        b'{"model":"' + b"x" * 3800
    )
    with (
        run_server(config=config, clock=clock) as server,
        server.client() as client,
        connect(server) as oldest,
        connect(server) as other,
    ):
        bodies = server.app.services.bodies
        for number, slow in enumerate((oldest, other), 1):
            slow.sendall(begun)
            eventually(lambda number=number: bodies.num_bytes > 3800 * number)
        assert client.post(CHAT, json=long).status_code == 503
        clock.advance(5.0)
        assert client.post(CHAT, json=long).status_code == 200
        reply = oldest.recv(4096)
        while more := oldest.recv(4096):
            reply += more
        # It is over: who trickles on does not keep the connection.
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"came slowly" in reply
        assert b"connection: close" in reply.lower()
        # One of them was enough: the other goes on, and may still end.
        other.sendall(b" " * 90)
        assert other.recv(4096).startswith(b"HTTP/1.1 400 ")
        eventually(lambda: bodies.num_bytes == 0)
        assert bodies.arriving == []


def test_a_reader_that_takes_nothing_is_cut_off_and_its_request_stopped() -> None:
    backend = FakeBackend(pieces=["x" * 5000] * 5000)
    content = json.dumps(BODY | {"stream": True}).encode()
    with run_server(backend, ServerConfig(write_timeout_s=0.5)) as server:
        with connect(server) as raw:
            raw.sendall(
                f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(content)}\r\n\r\n".encode()
                + content
            )
            assert raw.recv(1000)
            # 25 MB do not fit into the socket's buffers.
            assert backend.wait_until(lambda: len(backend.closed) == 1)
            assert b"[DONE]" not in read_to_end(raw)
        backend.pieces = ["x"]
        check_answers(server)


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"EHLO example.org\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n bad: folded\r\nx\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"y" * 200_000,
    ],
)
def test_what_is_no_http_is_a_400_in_the_usual_form(patient: RunningServer, noise: bytes) -> None:
    with connect(patient) as raw:
        raw.sendall(noise)
        received = read_to_end(raw)
    head, _, body = received.partition(b"\r\n\r\n")
    if received:  # a reset may overtake the answer while the client still sends
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
    check_answers(patient)


def test_a_body_that_breaks_off_its_coding_ends_the_connection_alone(
    patient: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(patient) as raw:
        raw.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n".encode()
        )
        raw.sendall(b"not a length\r\n")
        assert read_to_end(raw) == b""
    check_answers(patient)
    assert "Traceback" not in caplog.text


def test_https_serves_what_http_does_and_nothing_else(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    config = ServerConfig(ssl_certfile=certificate, ssl_keyfile=certificate.with_suffix(".key"))
    with run_server(config=config, certificate=load_certificate(config)) as server:
        assert server.address.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=server.address, verify=trusted, timeout=60) as client:
            assert client.post(CHAT, json=BODY).json()["choices"]
            assert client.post(CHAT, json=BODY | {"stream": True}).text.endswith("[DONE]\n\n")
        old = ssl.create_default_context(cafile=str(certificate))
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        with httpx.Client(base_url=server.address, verify=old, timeout=60) as client:
            assert client.get("/health").status_code == 200
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"{server.address}/health")
        with connect(server) as raw:
            raw.sendall(HEAD + b"\r\n")
            assert b"HTTP" not in read_to_end(raw)
