"""Responses that run on by themselves: polled, followed, cancelled, deleted, lost with a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai.types.responses import Response
from test_responses import ASK, TEXT, TEXT_EVENTS, post, read_events, read_frames, run_with_store

from fakes.fake_backend import FakeBackend
from fakes.fake_clock import FakeClock
from fakes.served_app import RunningServer, run_server
from fakes.usage import eventually, open_database, open_ledger, refused_writes
from headrace.core.clock import SystemClock
from headrace.core.errors import CapacityError, EngineDied
from headrace.core.request import GenerateRequest
from headrace.core.stores import NO_LIMITS
from headrace.economics.accounts import Accounts
from headrace.store.keys import KeyStore
from headrace.store.responses import LEASE_MS, StoredResponses

BACKGROUND_EVENTS = [TEXT_EVENTS[0], "response.queued", *TEXT_EVENTS[1:]]


class Gate:
    """Holds every request before a step until it is opened."""

    def __init__(self, step: int) -> None:
        self._step, self._loop = step, None
        self._open: asyncio.Event | None = None
        self.reached = threading.Event()

    async def __call__(self, _: GenerateRequest, step: int) -> None:
        if step == self._step:
            self._open = asyncio.Event()
            self.reached.set()
            await self._open.wait()

    def open(self, server: RunningServer) -> None:
        assert self.reached.wait(60)
        server.call(lambda: self._open and self._open.set())


@pytest.fixture
def gate() -> Gate:
    return Gate(2)


@pytest.fixture
def server(tmp_path: Path, gate: Gate) -> Iterator[RunningServer]:
    with run_with_store(tmp_path, FakeBackend(before_step=gate)) as running:
        yield running


def wait_for(server: RunningServer, response_id: str, *statuses: str) -> Response:
    found: list[Response] = []

    def has_it() -> bool:
        with server.openai() as client:
            found.append(client.responses.retrieve(response_id))
        return found[-1].status in statuses

    eventually(has_it)
    return found[-1]


def test_it_is_answered_at_once_and_completes_by_itself(server: RunningServer, gate: Gate) -> None:
    body = post(server, background=True).json()
    Response.model_validate(body)
    assert (body["status"], body["background"], body["output"]) == ("queued", True, [])
    assert gate.reached.wait(60)
    running = wait_for(server, body["id"], "in_progress")
    assert running.output_text == "Hello,"
    assert running.output[0].status == "in_progress"
    with server.openai() as client:
        with pytest.raises(openai.BadRequestError, match="has ended"):
            client.responses.create(**ASK, previous_response_id=body["id"])
        gate.open(server)
        done = wait_for(server, body["id"], "completed")
        assert (done.output_text, done.usage.output_tokens) == (TEXT, 5)
        gate._step = -1
        client.responses.create(**ASK, previous_response_id=body["id"])
        same = client.responses.cancel(body["id"])
    assert same == done
    assert [m.content for m in server.backend.requests[-1].messages] == ["hi", TEXT, "hi"]


def test_nobody_waits_for_it(server: RunningServer) -> None:
    with server.openai() as client:
        client.responses.create(**ASK, background=True, timeout=7)
        server.backend.before_step = None
        client.responses.create(**ASK, timeout=7)
    assert [request.patience_s for request in server.backend.requests] == [None, 7]


def test_a_stream_can_be_left_and_taken_up_again(server: RunningServer, gate: Gate) -> None:
    with server.openai() as client:
        stream = client.responses.create(**ASK, background=True, stream=True)
        seen = [next(stream) for _ in range(5)]
        stream.close()
        response_id = seen[0].response.id
        gate.open(server)
        rest = list(client.responses.retrieve(response_id, stream=True, starting_after=4))
        wait_for(server, response_id, "completed")
    assert [event.sequence_number for event in seen + rest] == list(range(13))
    assert [event.type for event in seen + rest] == BACKGROUND_EVENTS
    with server.client() as raw:
        path = f"/v1/responses/{response_id}?stream=true"
        again = read_events(raw.get(path))
        later = read_events(raw.get(f"{path}&starting_after=7"))
        over = raw.get(f"{path}&starting_after=99")
    assert [event["type"] for event in again] == BACKGROUND_EVENTS
    assert later == again[8:]
    assert over.text == "data: [DONE]\n\n"
    assert [event["response"]["status"] for event in again if "response" in event] == [
        *("queued", "queued", "in_progress", "completed")
    ]


def test_cancelling_stops_the_work_and_keeps_what_there_is(
    server: RunningServer, gate: Gate
) -> None:
    with server.openai() as client:
        stream = client.responses.create(**ASK, background=True, stream=True)
        response_id = next(stream).response.id
        assert gate.reached.wait(60)
        cancelled = client.responses.cancel(response_id)
        again = client.responses.cancel(response_id)
        events = list(stream)
        kept = client.responses.retrieve(response_id)
    assert server.backend.num_running == 0
    assert cancelled == again == kept
    assert (kept.status, kept.output_text, kept.error) == ("cancelled", "Hello,", None)
    assert kept.output[0].status == "incomplete"
    assert (events[-1].type, events[-1].response.status) == ("response.incomplete", "cancelled")


def test_deleting_stops_the_work(server: RunningServer, gate: Gate) -> None:
    response_id = post(server, background=True).json()["id"]
    assert gate.reached.wait(60)
    with server.openai() as client:
        client.responses.delete(response_id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response_id)
    assert server.backend.num_running == 0


def test_an_error_makes_it_failed(server: RunningServer) -> None:
    async def die(_: object, step: int) -> None:
        if step == 1:
            raise EngineDied("The engine ended.")

    server.backend.before_step = die
    failed = wait_for(server, post(server, background=True).json()["id"], "failed")
    assert (failed.error.code, failed.error.message) == ("server_error", "The engine ended.")
    assert failed.output_text == "Hello"
    events = read_events(post(server, background=True, stream=True))
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_what_is_not_admitted_is_an_error_at_once(server: RunningServer) -> None:
    async def refuse(_: object) -> None:
        raise CapacityError("The queue is full.", 2.5)

    assert post(server, background=True, input="x" * 2000).status_code == 400
    server.backend.admission = refuse
    for is_streamed in (False, True):
        full = post(server, background=True, stream=is_streamed)
        assert (full.status_code, full.headers["retry-after"]) == (429, "3")


def test_a_server_that_stops_leaves_it_failed(tmp_path: Path, gate: Gate) -> None:
    with run_with_store(tmp_path, FakeBackend(before_step=gate)) as server:
        response_id = post(server, background=True).json()["id"]
        assert gate.reached.wait(60)
    assert server.backend.num_running == 0
    with run_with_store(tmp_path) as after, after.openai() as client:
        failed = client.responses.retrieve(response_id)
    assert (failed.status, failed.error.code) == ("failed", "server_error")
    assert "shutting down" in failed.error.message
    assert failed.output_text == "Hello,"


def test_readers_of_a_server_that_stops_get_the_end(server: RunningServer, gate: Gate) -> None:
    ask = ASK | {"background": True, "stream": True}
    with server.client() as client, client.stream("POST", "/v1/responses", json=ask) as reply:
        parts = reply.iter_text()
        text = next(parts)
        assert gate.reached.wait(60)
        server.call(server.app.services.lifetime.close)
        text += "".join(parts)
    events = read_frames(text)
    assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["status"] == "failed"


def test_another_server_sees_what_runs_and_what_died(tmp_path: Path, gate: Gate) -> None:
    clock, database = FakeClock(SystemClock().unix_s()), open_database(tmp_path)
    store = StoredResponses(database, clock, retention_days=1)
    backend = FakeBackend(before_step=gate)
    with (
        run_server(backend, open_responses=lambda: store) as server,
        run_server(open_responses=lambda: store) as other,
    ):
        response_id = post(server, background=True).json()["id"]
        wait_for(other, response_id, "in_progress")
        clock.advance(LEASE_MS / 1000 + 1)
        lost = wait_for(other, response_id, "failed")
        assert lost.error.code == "server_error"
        assert "stopped before it was complete" in lost.error.message
        assert [(item.type, item.status) for item in lost.output] == [("message", "incomplete")]
        # It only looked dead: what it writes at its end counts.
        gate.open(server)
        assert wait_for(other, response_id, "completed").output_text == TEXT
    database.close()


def test_another_server_can_cancel(tmp_path: Path, gate: Gate) -> None:
    database = open_database(tmp_path)
    store = StoredResponses(database, SystemClock(), retention_days=1)
    with (
        run_server(FakeBackend(before_step=gate), open_responses=lambda: store) as server,
        run_server(open_responses=lambda: store) as other,
    ):
        server.app.services.runs.tend_every_s = 0.05
        response_id = post(server, background=True).json()["id"]
        assert gate.reached.wait(60)
        wait_for(other, response_id, "in_progress")
        with other.openai() as client:
            cancelled = client.responses.cancel(response_id)
        assert cancelled.status == "cancelled"
        assert [item.status for item in cancelled.output] == ["incomplete"]
        assert server.backend.wait_until(lambda: server.backend.num_running == 0)
        assert wait_for(server, response_id, "cancelled").id == response_id
    database.close()


def test_a_database_that_is_away_for_a_while_costs_no_response(tmp_path: Path, gate: Gate) -> None:
    database = open_database(tmp_path)
    store = StoredResponses(database, SystemClock(), retention_days=1)
    with run_server(FakeBackend(before_step=gate), open_responses=lambda: store) as server:
        server.app.services.runs.tend_every_s = 0.05
        response_id = post(server, background=True).json()["id"]
        assert gate.reached.wait(60)
        with refused_writes(database):
            gate.open(server)
            assert wait_for(server, response_id, "completed").output_text == TEXT
            server.backend.before_step = None
            # What a caller sees as ended can be continued, wherever it is kept as yet.
            assert post(server, previous_response_id=response_id, store=False).status_code == 200
            said = [message.content for message in server.backend.requests[-1].messages]
            assert said == ["hi", TEXT, "hi"]
        runs = server.app.services.runs
        eventually(lambda: runs.find("default", response_id) is None)
        assert wait_for(server, response_id, "completed").output_text == TEXT
    database.close()


def test_every_background_call_leaves_one_row_of_usage(tmp_path: Path, gate: Gate) -> None:
    with open_ledger(tmp_path) as ledger:
        store = StoredResponses(ledger.database, SystemClock(), retention_days=1)
        accounts = Accounts(ledger=ledger.writer)
        with run_server(
            FakeBackend(before_step=gate), accounts=accounts, open_responses=lambda: store
        ) as server:
            post(server, background=True)
            assert gate.reached.wait(60)
            assert ledger.rows() == []
            gate.open(server)
            eventually(lambda: len(ledger.rows()) == 1)
            gate.reached.clear()
            with server.openai() as client:
                stream = client.responses.create(**ASK, background=True, stream=True)
                response_id = next(stream).response.id
                stream.close()
                assert gate.reached.wait(60)
                client.responses.cancel(response_id)
            eventually(lambda: len(ledger.rows()) == 2)
            post(server, background=True, input="x" * 2000)
            eventually(lambda: len(ledger.rows()) == 3)
    first, cancelled, refused = ledger.rows()
    assert (first["operation"], first["http_status"]) == ("/v1/responses", 200)
    assert (first["output_tokens"], first["finish_reason"], first["error"]) == (5, "stop", None)
    assert (cancelled["output_tokens"], cancelled["finish_reason"]) == (2, "abort")
    assert (refused["http_status"], refused["error"]) == (400, "context_length_exceeded")


def test_a_response_belongs_to_its_tenant(tmp_path: Path, gate: Gate) -> None:
    with open_ledger(tmp_path) as ledger:
        keys = KeyStore(ledger.database, FakeClock())
        _, ours = keys.create("ours", "acme", ["inference"], NO_LIMITS)
        _, same = keys.create("same", "acme", ["inference"], NO_LIMITS)
        _, theirs = keys.create("theirs", "other", ["inference"], NO_LIMITS)
        store = StoredResponses(ledger.database, SystemClock(), retention_days=1)
        with run_server(
            FakeBackend(before_step=gate),
            accounts=Accounts(keys=keys.ring()),
            open_responses=lambda: store,
        ) as server:
            with server.openai(ours) as client:
                running = client.responses.create(**ASK, background=True).id
                assert gate.reached.wait(60)
                gate._step = -1
                ended = client.responses.create(**ASK).id
            with server.openai(theirs) as client:
                for name in (running, ended):
                    for act in (
                        client.responses.retrieve,
                        client.responses.delete,
                        client.responses.cancel,
                        client.responses.input_items.list,
                    ):
                        with pytest.raises(openai.NotFoundError):
                            act(name)
                with pytest.raises(openai.BadRequestError):
                    client.responses.create(**ASK, previous_response_id=ended)
            with server.openai(same) as client:
                assert client.responses.retrieve(running).status == "in_progress"
                assert client.responses.retrieve(ended).status == "completed"
            gate.open(server)
            with server.client() as bare:
                for path in ("", "/input_items"):
                    assert bare.get(f"/v1/responses/{ended}{path}").status_code == 401
