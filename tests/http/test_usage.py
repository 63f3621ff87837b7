"""Every call leaves one row of usage, however it ends, and the rows agree with the clients."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_disconnect import read_until, wait_at, wait_forever

from fakes.fake_backend import FakeBackend
from fakes.running_engine import running_engine
from fakes.served_app import RunningServer, run_server
from fakes.usage import Ledger, eventually, full_disk, open_ledger
from headrace.core.backend import Backend, Health
from headrace.core.clock import SystemClock
from headrace.core.config import ServerConfig
from headrace.core.end_user import digest_of
from headrace.core.errors import CapacityError, EngineDied
from headrace.core.request import GenerateRequest
from headrace.core.stores import NO_LIMITS
from headrace.economics.accounts import Accounts
from headrace.economics.ledger import UsageLedger
from headrace.store.keys import KeyStore

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
MIXED_SEED = 11


class Served:
    """A server with a real ledger and one key; `rows` waits for what is on its way."""

    def __init__(
        self, server: RunningServer, client: httpx.Client, ledger: Ledger, secret: str
    ) -> None:
        self.server, self.client, self.ledger, self.secret = server, client, ledger, secret
        self.headers = {"Authorization": f"Bearer {secret}"}

    def rows(self, count: int) -> list[dict[str, Any]]:
        eventually(lambda: self.ledger.count("ledger_rows") >= count)
        rows = self.ledger.rows()
        assert len(rows) == count
        return rows

    def rows_of(self, *replies: httpx.Response) -> list[dict[str, Any]]:
        """Those of all calls there were. The table has no order for calls of one millisecond."""
        rows = {row["request_id"]: row for row in self.rows(len(replies))}
        return [rows[reply.headers["x-request-id"]] for reply in replies]

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(path, json=BODY | body, headers=self.headers)

    @contextmanager
    def raw_post(self, path: str, **body: Any) -> Iterator[socket.socket]:
        """A connection that can be cut at any point."""
        content = json.dumps(BODY | body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.secret}\r\nContent-Length: {len(content)}\r\n"
            "Connection: close\r\n\r\n"
        )
        with socket.create_connection(self.server.host_and_port, timeout=60) as raw:
            raw.sendall(head.encode() + content)
            yield raw


@contextmanager
def serving(
    folder: Path, backend: Backend | None = None, config: ServerConfig | None = None
) -> Iterator[Served]:
    with open_ledger(folder, max_rows=10_000) as ledger:
        keys = KeyStore(ledger.database, SystemClock())
        key, secret = keys.create("ci", "acme", ["inference"], NO_LIMITS)
        accounts = Accounts(keys=keys.ring(), ledger=ledger.writer)
        with (
            run_server(backend, config, accounts) as server,  # type: ignore[arg-type]
            server.client() as client,
        ):
            yield Served(server, client, ledger, secret)
        # The server is gone: nothing may still hold on to a call.
        ledger.writer.close()
        assert {row["tenant"] for row in ledger.rows()} <= {"acme"}
        assert {row["key_id"] for row in ledger.rows()} <= {key.id}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as running:
        yield running


def counts(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("usage_source", "input_tokens", "cached_input_tokens", "output_tokens")
    return tuple(row[name] for name in names)


def ending(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["finish_reason"], row["error"], row["http_status"]


def test_a_whole_answer(tmp_path: Path) -> None:
    with serving(tmp_path, FakeBackend(num_cached_tokens=1)) as served:
        answer = served.post(CHAT)
        (row,) = served.rows(1)
    assert counts(row) == ("measured", 2, 1, 5)
    assert ending(row) == ("stop", None, 200)
    assert row["request_id"] == answer.headers["x-request-id"]
    assert (row["operation"], row["model"]) == (CHAT, "tiny")
    assert (row["queue_s"], row["prefill_s"], row["decode_s"]) == (0.001, 0.002, 0.003)
    assert (row["prefill_compute_s"], row["decode_compute_s"]) == (0.0005, 0.0015)
    assert 0 < row["first_token_s"] <= row["duration_s"] < 60
    assert row["row_id"][:12] == f"{row['accepted_at_ms']:012x}"
    assert (row["reasoning_tokens"], row["rejected_draft_tokens"]) == (0, 0)


def test_for_whom_a_call_asks_is_kept_as_digests_of_its_tenant(served: Served) -> None:
    who = {"user": "alice@example.org", "safety_identifier": "s-1", "prompt_cache_key": "k"}
    message = {"max_tokens": 5, "metadata": {"user_id": "alice@example.org"}}
    replies = [
        served.post(CHAT, **who),
        served.post(COMPLETIONS, prompt="hi", **who),
        served.post("/v1/messages", **message),
        served.post(CHAT, user=7),
    ]
    assert "x-headrace-warnings" not in replies[0].headers
    assert [reply.status_code for reply in replies] == [200, 200, 200, 400]
    rows = served.rows_of(*replies)
    alice = digest_of("acme", "alice@example.org")
    others = digest_of("acme", "s-1"), digest_of("acme", "k")
    names = ("user_digest", "safety_digest", "cache_key_digest")
    assert [tuple(row[name] for name in names) for row in rows] == [
        (alice, *others),
        (alice, *others),
        (alice, None, None),
        (None, None, None),
    ]
    totals = UsageLedger(served.ledger.database).report(["user"])
    assert [(total.group, total.requests) for total in totals] == [((None,), 1), ((alice,), 3)]


def test_several_prompts_and_answers_are_one_call(served: Served) -> None:
    usage = served.post(COMPLETIONS, prompt=["ab", "cde"], n=2, max_tokens=3).json()["usage"]
    (row,) = served.rows(1)
    assert counts(row) == ("measured", 5, 0, 12)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 12)
    assert ending(row) == ("length", None, 200)
    assert row["queue_s"] == pytest.approx(0.002)


def test_a_refused_call_used_nothing(served: Served) -> None:
    rows = served.rows_of(
        served.post(CHAT, temperature=9),
        served.post(CHAT, model="other"),
        served.post(CHAT, messages=[{"role": "user", "content": "x" * 2000}]),
    )
    assert [counts(row) for row in rows] == [("none", 0, 0, 0)] * 3
    assert [ending(row) for row in rows] == [
        (None, "invalid_value", 400),
        (None, "model_not_found", 404),
        (None, "context_length_exceeded", 400),
    ]


def test_a_full_or_stopped_engine(tmp_path: Path) -> None:
    async def refuse(_: GenerateRequest) -> None:
        raise CapacityError("full")

    backend = FakeBackend(admission=refuse)
    with serving(tmp_path, backend) as served:
        full = served.post(CHAT)
        backend.state = Health("starting")
        rows = served.rows_of(full, served.post(CHAT))
    assert [ending(row) for row in rows] == [
        (None, "CapacityError", 429),
        (None, "CapacityError", 503),
    ]


@pytest.mark.parametrize(("is_streamed", "status"), [(False, 503), (True, 200)])
def test_an_engine_that_dies_after_two_tokens(
    tmp_path: Path, is_streamed: bool, status: int
) -> None:
    async def die(_: GenerateRequest, step: int) -> None:
        if step == 2:
            raise EngineDied("gone")

    with serving(tmp_path, FakeBackend(before_step=die)) as served:
        served.post(CHAT, stream=is_streamed)
        (row,) = served.rows(1)
    assert counts(row) == ("measured", 2, 0, 2)
    assert ending(row) == ("error", "EngineDied", status)
    assert row["queue_s"] is None


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_that_takes_too_long(tmp_path: Path, is_streamed: bool) -> None:
    config = ServerConfig(port=0, request_timeout_s=1.0)
    with serving(tmp_path, FakeBackend(before_step=wait_at(1)), config) as served:
        served.post(CHAT, stream=is_streamed)
        (row,) = served.rows(1)
    assert counts(row) == ("measured", 2, 0, 1)
    assert ending(row) == ("error", "RequestError", 200 if is_streamed else 400)


def test_a_client_that_leaves_in_mid_stream(tmp_path: Path) -> None:
    with serving(tmp_path, FakeBackend(before_step=wait_at(3))) as served:
        with served.raw_post(CHAT, stream=True) as raw:
            read_until(raw, b'" w')
        (row,) = served.rows(1)
    assert counts(row) == ("measured", 2, 0, 3)
    assert ending(row) == ("abort", "client_disconnected", 200)


def test_a_client_that_leaves_before_anything_was_said(tmp_path: Path) -> None:
    """What was computed is not known: it is not 0, and the estimate is marked as one."""
    backend = FakeBackend(before_step=wait_at(0))
    with serving(tmp_path, backend) as served:
        with served.raw_post(COMPLETIONS, prompt="a prompt of 24 characters"):
            assert backend.wait_until(lambda: backend.num_running == 1)
        (row,) = served.rows(1)
    assert counts(row) == ("estimated", None, None, None)
    assert row["estimated_input_tokens"] == 9
    assert ending(row) == ("abort", "client_disconnected", None)


def test_a_client_that_leaves_while_it_is_admitted(tmp_path: Path) -> None:
    backend = FakeBackend(admission=wait_forever)
    with serving(tmp_path, backend) as served:
        with served.raw_post(CHAT):
            assert backend.wait_until(lambda: len(backend.requests) == 1)
        (row,) = served.rows(1)
    assert counts(row) == ("none", 0, 0, 0)
    assert ending(row) == (None, "client_disconnected", None)


def test_a_server_that_is_stopped(tmp_path: Path) -> None:
    backend = FakeBackend(before_step=wait_at(2))
    with serving(tmp_path, backend) as served:
        with served.raw_post(CHAT, stream=True) as raw:
            read_until(raw, b'","')
            served.server.call(served.server.app.services.lifetime.close)
            read_until(raw, b"shutting down")
        (row,) = served.rows(1)
    assert counts(row) == ("measured", 2, 0, 2)
    assert ending(row) == ("abort", "server_stopped", 200)


def test_who_has_no_key_leaves_no_row(served: Served) -> None:
    client = served.client
    assert client.post(CHAT, json=BODY).status_code == 401
    assert client.get("/v1/models", headers=served.headers).status_code == 200
    assert client.get("/health").status_code == 200
    served.post(CHAT)
    assert len(served.rows(1)) == 1


def test_requests_are_answered_while_the_ledger_cannot_be_written(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        with full_disk(served.ledger.database):
            statuses = [served.post(CHAT, user="x").status_code for _ in range(60)]
            assert statuses == [200] * 60
            eventually(lambda: served.ledger.count("ledger_failures") > 0)
        assert len(served.rows(60)) == 60


def usage_of(text: str) -> dict[str, Any] | None:
    """The last usage that a client saw, in an answer or in a part of a stream."""
    found = None
    for line in text.splitlines():
        payload = line.removeprefix("data: ")
        # The last line of a cut connection may be a part of one; others are sizes of chunks.
        if payload.startswith("{") and payload.endswith("}") and '"usage"' in payload:
            found = json.loads(payload)["usage"] or found
    return found


async def test_rows_agree_with_what_clients_saw(tmp_path: Path) -> None:
    """The real engine under mixed traffic: whole, streamed, several prompts, refused, cut off.

    A call that ran to its end has exactly the usage its client saw; of one that was cut off the
    row has no less.
    """

    def ask(served: Served, number: int, source: random.Random) -> tuple[str, str, bool]:
        """Request id, what was received, and whether the connection was cut."""
        body: dict[str, Any] = {
            "prompt": [f"prompt {source.randrange(5)} " * 3] * source.choice([1, 1, 2]),
            "max_tokens": source.choice([1, 3, 20, 100_000 if source.random() < 0.1 else 30]),
            "n": source.choice([1, 1, 2]),
            "stream": source.random() < 0.6,
        }
        if body["stream"]:
            body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        request_id = f"call-{number}"
        if source.random() < 0.3:
            with served.raw_post(COMPLETIONS, **body) as raw:
                received = b""
                for _ in range(source.randrange(6)):
                    received += raw.recv(2000)
                return "", received.decode("utf-8", "replace"), True
        headers = served.headers | {"x-request-id": request_id}
        answer = served.client.post(COMPLETIONS, json=BODY | body, headers=headers)
        return request_id, answer.text, False

    def drive(served: Served) -> None:
        source = random.Random(MIXED_SEED)
        jobs = [(number, random.Random(source.random())) for number in range(90)]
        with ThreadPoolExecutor(8) as pool:
            calls = list(pool.map(lambda job: ask(served, *job), jobs))
        rows = {row["request_id"]: row for row in served.rows(len(jobs))}
        cut_rows = [row for name, row in rows.items() if not name.startswith("call-")]
        sums, seen = [0, 0, 0], [0, 0, 0]
        for request_id, text, was_cut in calls:
            if was_cut:
                continue
            row, usage = rows[request_id], usage_of(text)
            assert (usage is None) == (row["usage_source"] == "none"), row
            if usage is not None:
                for index, (name, path) in enumerate(
                    (
                        ("input_tokens", usage["prompt_tokens"]),
                        ("cached_input_tokens", usage["prompt_tokens_details"]["cached_tokens"]),
                        ("output_tokens", usage["completion_tokens"]),
                    )
                ):
                    sums[index] += row[name]
                    seen[index] += path
        assert sums == seen
        assert min(seen) > 0
        cut = [text for _, text, was_cut in calls if was_cut]
        assert len(cut) == len(cut_rows) > 10
        shown = sum((usage_of(text) or {}).get("completion_tokens", 0) for text in cut)
        assert sum(row["output_tokens"] or 0 for row in cut_rows) >= shown

    async with running_engine() as running:
        with serving(tmp_path, running.backend) as served:
            await asyncio.to_thread(drive, served)
        await running.until_idle()
