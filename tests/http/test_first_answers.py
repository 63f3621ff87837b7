"""`Idempotency-Key`: a call that names itself runs once, whatever becomes of its connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, raw_post, run_server
from fakes.usage import eventually
from headrace.core.errors import BackendError, RequestError
from headrace.core.request import GenerateRequest
from headrace.server import first_answers
from headrace.server.error_responses import HttpRefusal
from headrace.server.first_answers import KEEP_S, FirstAnswers, Recorder

HI = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "tiny", "messages": HI},
    "/v1/completions": {"model": "tiny", "prompt": "hi"},
    "/v1/messages": {"model": "tiny", "messages": HI, "max_tokens": 9},
    "/v1/responses": {"model": "tiny", "input": "hi"},
    "/v1/embeddings": {"model": "tiny", "input": "hi"},
}
CHAT = "/v1/chat/completions"
NAMED = {"Idempotency-Key": "k-1"}


class Gate:
    """Holds requests before a step until it is opened."""

    def __init__(self) -> None:
        self.reached, self._event = threading.Event(), asyncio.Event()

    async def __call__(self, _: GenerateRequest, step: int) -> None:
        if step == 2:
            self.reached.set()
            await self._event.wait()

    def open(self, server: RunningServer) -> None:
        assert self.reached.wait(60)
        server.call(self._event.set)


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with run_server() as running:
        yield running


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_the_same_call_has_the_same_answer(
    server: RunningServer, path: str, is_streamed: bool
) -> None:
    body = BODIES[path] | ({"stream": True} if is_streamed and "embed" not in path else {})
    with server.client() as client:
        first = client.post(path, json=body, headers=NAMED)
        again = client.post(path, json=dict(reversed(body.items())), headers=NAMED)
        other = client.post(path, json=body, headers={"Idempotency-Key": "k-2"})
    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 200)
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert [reply.headers.get("idempotent-replayed") for reply in (first, again, other)] == [
        None, "true", None,
    ]  # fmt: skip
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(server.backend.requests) == 2


def test_another_body_and_another_route(server: RunningServer) -> None:
    with server.client() as client:
        client.post(CHAT, json=BODIES[CHAT], headers=NAMED)
        wrong = client.post(CHAT, json=BODIES[CHAT] | {"temperature": 0.5}, headers=NAMED)
        route = client.post("/v1/completions", json=BODIES["/v1/completions"], headers=NAMED)
        key = client.post(CHAT, json=BODIES[CHAT], headers={"Idempotency-Key": "a b"})
    error = wrong.json()["error"]
    assert (wrong.status_code, error["code"]) == (400, "idempotency_key_reused")
    assert (route.status_code, "idempotent-replayed" in route.headers) == (200, False)
    assert (key.status_code, "visible ASCII" in key.text) == (400, True)
    assert key.json()["error"]["param"] == error["param"] == "Idempotency-Key"


def test_while_the_first_one_runs() -> None:
    gate = Gate()
    with run_server(FakeBackend(before_step=gate)) as server, server.client() as client:
        replies: list[httpx.Response] = []
        first = threading.Thread(
            target=lambda: replies.append(client.post(CHAT, json=BODIES[CHAT], headers=NAMED))
        )
        first.start()
        assert gate.reached.wait(60)
        refused = client.post(CHAT, json=BODIES[CHAT], headers=NAMED)
        assert (refused.status_code, refused.headers["retry-after"]) == (409, "1")
        gate.open(server)
        first.join(60)
        again = client.post(CHAT, json=BODIES[CHAT], headers=NAMED)
        assert again.content == replies[0].content
        assert len(server.backend.requests) == 1


@pytest.mark.parametrize("is_streamed", [False, True])
def test_whoever_leaves_finds_the_answer_on_coming_back(is_streamed: bool) -> None:
    gate = Gate()
    body = BODIES[CHAT] | {"stream": is_streamed}
    with run_server(FakeBackend(before_step=gate)) as server, server.client() as client:
        with raw_post(server, CHAT, body, Idempotency_Key="k-1"):
            assert gate.reached.wait(60)
        gate.open(server)
        replies: list[httpx.Response] = []

        def is_there() -> bool:
            replies.append(client.post(CHAT, json=body, headers=NAMED))
            return replies[-1].status_code != 409

        eventually(is_there)
        assert replies[-1].headers["idempotent-replayed"] == "true"
        assert "wörld" in replies[-1].text
        assert replies[-1].text.endswith("[DONE]\n\n") is is_streamed
        assert (len(server.backend.requests), server.backend.closed) == (1, [])


@pytest.mark.parametrize("is_streamed", [False, True])
def test_what_failed_is_asked_for_anew(server: RunningServer, is_streamed: bool) -> None:
    async def fail(_: GenerateRequest, step: int) -> None:
        if step == 2:
            raise BackendError("broken")

    body = BODIES[CHAT] | {"stream": is_streamed}
    server.backend.before_step = fail
    with server.client() as client:
        failed = client.post(CHAT, json=body, headers=NAMED)
        server.backend.before_step = None
        again = client.post(CHAT, json=body, headers=NAMED)
    assert "broken" in failed.text
    assert (again.status_code, "idempotent-replayed" in again.headers) == (200, False)
    assert "wörld" in again.text
    assert len(server.backend.requests) == 2


async def nowhere(_: object) -> None:
    return


async def begin(answers: FirstAnswers, name: int, now_s: float, tenant: str = "t") -> int:
    """How many messages there are already."""
    recorder = Recorder(nowhere)
    found = await answers.begin((tenant, CHAT, str(name)), {}, recorder, now_s)
    return len(found)


async def answer(answers: FirstAnswers, name: int, size: int, now_s: float) -> None:
    """Begin a call, and end it with an answer of that size."""
    recorder = Recorder(nowhere)
    assert await answers.begin(("t", CHAT, str(name)), {}, recorder, now_s) == []
    await recorder.send({"type": "http.response.start", "status": 200, "headers": []})
    await recorder.send({"type": "http.response.body", "body": b"x" * size, "more_body": False})
    answers.end(("t", CHAT, str(name)), False, now_s)


async def test_what_is_kept_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_answers, "MAX_BYTES", 100)
    monkeypatch.setattr(first_answers, "MAX_ANSWER_BYTES", 60)
    answers = FirstAnswers()
    assert await begin(answers, 0, 0.0) == 0
    for number, size in ((1, 50), (2, 50), (3, 61)):
        await answer(answers, number, size, 1.0)
    assert await begin(answers, 3, 1.0) == 0  # it was too long
    assert await begin(answers, 1, 2.0) == 2
    await answer(answers, 4, 1, 3.0)
    assert await begin(answers, 1, 3.0) == 0  # the oldest made room
    assert await begin(answers, 2, 3.0) == 2
    assert await begin(answers, 2, 1.0 + KEEP_S) == 0
    with pytest.raises(HttpRefusal):
        await begin(answers, 2, 1.0 + KEEP_S)
    with pytest.raises(HttpRefusal):
        await begin(answers, 0, 1.0 + KEEP_S)  # it runs for as long as it takes


async def test_a_repetition_that_comes_before_the_end_waits_for_it() -> None:
    answers, recorder, name = FirstAnswers(), Recorder(nowhere), ("t", CHAT, "1")
    assert await answers.begin(name, {}, recorder, 0.0) == []
    await recorder.send({"type": "http.response.start", "status": 200, "headers": []})
    await recorder.send({"type": "http.response.body", "body": b"x"})
    waiting = [asyncio.create_task(begin(answers, 1, 0.0)) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    answers.end(name, False, 0.0)
    assert await asyncio.gather(*waiting) == [2, 2]


async def test_names_are_a_tenants_own() -> None:
    answers = FirstAnswers()
    assert [await begin(answers, 1, 0.0, tenant) for tenant in "ab"] == [0, 0]
    with pytest.raises(RequestError, match="another body"):
        await answers.begin(("a", CHAT, "1"), {"x": 2}, Recorder(nowhere), 0.0)
