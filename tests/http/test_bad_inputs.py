"""Every bad input has its exact status, error object and message, over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest
from bad_inputs import BAD_BODIES, BAD_INPUTS, CHAT, MAX_BODY_BYTES, BadBody, BadInput

from fakes.served_app import RunningServer, run_server
from headrace.core.backend import Health
from headrace.core.config import ServerConfig
from headrace.server.unserved_routes import SERVED_UNDER_V1


@pytest.fixture(scope="module")
def served() -> Iterator[RunningServer]:
    with run_server(config=ServerConfig(max_body_bytes=MAX_BODY_BYTES)) as server:
        yield server


@pytest.fixture(scope="module")
def client(served: RunningServer) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def check_error(
    reply: httpx.Response, status: int, message: str, param: str | None, code: str | None
) -> None:
    assert reply.status_code == status, reply.text
    assert reply.json() == {
        "error": {
            "message": message,
            "type": "invalid_request_error",
            "param": param,
            "code": code,
        }
    }
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_the_table_is_large_and_has_no_row_twice() -> None:
    assert len(BAD_INPUTS) + len(BAD_BODIES) >= 130
    assert len({(row.route, str(row.body)) for row in BAD_INPUTS}) == len(BAD_INPUTS)


@pytest.mark.parametrize("row", BAD_INPUTS, ids=lambda row: row.message[:60])
def test_bad_input(served: RunningServer, client: httpx.Client, row: BadInput) -> None:
    num_before = len(served.backend.requests)
    reply = client.post(row.route, json=row.body)
    check_error(reply, row.status, row.message, row.param, row.code)
    if row.code != "context_length_exceeded":
        assert len(served.backend.requests) == num_before


@pytest.mark.parametrize("row", BAD_BODIES, ids=lambda row: repr(row.content[:30]))
def test_bad_body(client: httpx.Client, row: BadBody) -> None:
    headers = {} if row.content_type is None else {"content-type": row.content_type}
    reply = client.post(CHAT, content=row.content, headers=headers)
    check_error(reply, row.status, row.message, None, None)


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"),
        *("/v1/messages", "/v1/messages/count_tokens", "/rerank", "/score", "/classify"),
        *("/tokenize", "/detokenize", "/invocations"),
    ],
)
def test_a_name_that_is_there_twice(client: httpx.Client, path: str) -> None:
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "a", "content": "b"}]}'
    reply = client.post(path, content=body, headers={"content-type": "application/json"})
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["message"] == (
        "The request body has messages[0].content twice; allowed: each name once in an object. "
        "Leave one out."
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "message", "allow"),
    [
        ("GET", "/v1/nothing", 404, "There is no route '/v1/nothing'.", None),
        ("POST", "/", 405, "GET, HEAD", "GET, HEAD"),
        ("GET", "/v1/chat/completions", 405, "POST", "POST"),
        ("PUT", "/v1/completions", 405, "POST", "POST"),
        ("TRACE", "/v1/models", 405, "GET, HEAD", "GET, HEAD"),
        ("PATCH", "/v1/models/tiny", 405, "GET, HEAD", "GET, HEAD"),
        ("DELETE", "/health", 405, "GET, HEAD", "GET, HEAD"),
        ("OPTIONS", "/v1/models", 405, "GET, HEAD", "GET, HEAD"),
        ("WEIRD", "/ping", 405, "GET, HEAD, POST", "GET, HEAD, POST"),
    ],
)
def test_wrong_routes_and_methods(
    client: httpx.Client, method: str, path: str, status: int, message: str, allow: str | None
) -> None:
    reply = client.request(method, path)
    whole = f"{message} GET /v1/models lists the models."
    if status == 405:
        whole = f"This route does not take that method; allowed: {message}."
    check_error(reply, status, whole, None, None)
    assert reply.headers.get("allow") == allow


def test_a_wrong_base_address_is_said(client: httpx.Client) -> None:
    for path in SERVED_UNDER_V1:
        hint = f"It is /v1{path}: OpenAI's clients need a base address that ends in /v1."
        assert hint in client.post(path, json={}).json()["error"]["message"]
        # What the hint names is there.
        assert client.put(f"/v1{path}").status_code == 405
    message = client.post("/v1/v1/messages", json={}).json()["error"]["message"]
    assert message.endswith("one /v1 too many: Anthropic's clients need it without.")


def test_a_slash_at_the_end_is_said(client: httpx.Client) -> None:
    message = (
        "There is no route '/v1/chat/completions/'. Leave out the slash at its end: "
        "'/v1/chat/completions'."
    )
    check_error(client.post("/v1/chat/completions/", json={}), 404, message, None, None)


def test_a_long_path_is_not_echoed_whole(client: httpx.Client) -> None:
    reply = client.get("/" + "a" * 500)
    shown = "/" + "a" * 116 + "..."
    check_error(
        reply, 404, f"There is no route {shown!r}. GET /v1/models lists the models.", None, None
    )


def test_a_much_too_large_body_is_refused_without_being_kept(client: httpx.Client) -> None:
    reply = client.post(
        CHAT,
        content=b" " * (3 * MAX_BODY_BYTES),
        headers={"content-type": "application/json"},
    )
    assert reply.status_code == 413
    assert reply.headers["connection"] == "close"


def test_a_body_that_never_ends_is_refused() -> None:
    with (
        run_server(config=ServerConfig(body_timeout_s=0.2)) as server,
        socket.create_connection(server.host_and_port, timeout=60) as raw,
    ):
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        with raw.makefile("rb") as incoming:
            reply = incoming.read()
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"The request body did not arrive within 0.2 s. Send it again." in reply


@pytest.mark.parametrize("status", ["starting", "stalled", "draining", "dead"])
def test_not_ready_is_503_with_retry_after(status: str) -> None:
    with run_server() as server, server.client() as client:
        server.backend.state = Health(status, "because.")  # type: ignore[arg-type]
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
        replies = [client.get("/health"), client.get("/ping"), client.post(CHAT, json=body)]
    for reply in replies:
        assert reply.status_code == 503
        assert reply.json()["error"] == {
            "message": f"The server is {status}: because. Send the request again later.",
            "type": "server_error",
            "param": None,
            "code": None,
        }
        assert reply.headers["retry-after"] == "5"


def test_a_fault_of_ours_is_500_without_details() -> None:
    async def break_down(_: object) -> None:
        raise ZeroDivisionError("secret")

    with run_server() as server, server.client() as client:
        server.backend.admission = break_down
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
        reply = client.post(CHAT, json=body, headers={"x-request-id": "mine-1"})
    assert reply.status_code == 500
    assert reply.headers["x-request-id"] == "mine-1"
    assert reply.json()["error"] == {
        "message": "The server failed to answer. The log has more under request id mine-1.",
        "type": "server_error",
        "param": None,
        "code": None,
    }
