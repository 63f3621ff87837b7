"""/v1/batches over real storage: how batches run, end, go on after a crash, and whose they are."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch
from test_disconnect import wait_forever

from fakes.fake_backend import FakeBackend
from fakes.fake_clock import FakeClock
from fakes.running_engine import Running, running_engine
from fakes.served_app import RunningServer, run_server
from fakes.stored import (
    CHAT,
    OpenStorage,
    begin,
    chat_line,
    open_storage,
    results,
    upload,
    wait_for,
)
from fakes.usage import Ledger, eventually
from headrace.core.backend import Health
from headrace.core.batches import NewBatch
from headrace.core.cache_control import CacheControl
from headrace.core.clock import Clock, SystemClock
from headrace.core.config import ServerConfig
from headrace.core.errors import CapacityError, ContextTooLong, EngineDied, TooManyAnswers
from headrace.core.files import FilePage
from headrace.core.request import GenerateRequest
from headrace.core.step import SchedulerOutput
from headrace.core.stored_requests import StoredRequest
from headrace.core.stores import NO_LIMITS, KeyLimits
from headrace.economics.accounts import Accounts
from headrace.economics.call_watch import CallEnd, CallWatcher
from headrace.store.keys import KeyStore

CONFIG = ServerConfig(port=0, max_batch_requests=4)
HOUR_S = 3600


@dataclass
class Served:
    """A server with storage, a ledger, and a key for each of two tenants."""

    server: RunningServer
    door: OpenStorage
    ledger: Ledger
    secrets: dict[str, str]

    def openai(self, tenant: str = "acme") -> openai.OpenAI:
        return self.server.openai(self.secrets[tenant])

    def client(self, tenant: str = "acme") -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.secrets[tenant]}"}
        return httpx.Client(base_url=self.server.address, headers=headers, timeout=60)

    @property
    def journals(self) -> list[str]:
        return [path.name for path in self.door.folder.glob("*-files/journals/*")]

    def rows(self, count: int) -> list[dict[str, Any]]:
        eventually(lambda: self.ledger.count("ledger_rows") >= count)
        return self.ledger.rows()


@contextmanager
def serving(
    folder: Path,
    backend: FakeBackend | None = None,
    config: ServerConfig = CONFIG,
    clock: Clock | None = None,
    limits: KeyLimits = NO_LIMITS,
    watchers: tuple[CallWatcher, ...] = (),
) -> Iterator[Served]:
    with ExitStack() as stack:
        door = stack.enter_context(open_storage(folder, clock))
        ledger = Ledger(folder, 10_000, database=door.database)
        stack.callback(ledger.writer.close)
        keys = KeyStore(door.database, SystemClock())
        secrets = {
            name: keys.create(f"{name}{len(keys.list())}", name, ["inference"], limits)[1]
            for name in ("acme", "other")
        }
        accounts = Accounts(keys=keys.ring(), ledger=ledger.writer, watchers=watchers)
        server = stack.enter_context(run_server(backend, config, accounts, clock, storage=door))
        yield Served(server, door, ledger, secrets)


class Gate:
    """Holds chosen requests of a FakeBackend back; counts how many ran at once."""

    def __init__(self, holds: Callable[[str], bool] = lambda text: False) -> None:
        self.holds, self.texts = holds, list[str]()
        self.backend = FakeBackend(admission=self._admit, before_step=self._step)
        self.most_at_once = 0

    async def _admit(self, request: GenerateRequest) -> None:
        (message,) = request.messages or ()
        self.texts.append(message.content or "")
        if self.holds(message.content or ""):
            await wait_forever(request)

    async def _step(self, request: GenerateRequest, step: int) -> None:
        self.most_at_once = max(self.most_at_once, self.backend.num_running)
        await asyncio.sleep(0)


def test_from_file_to_results(tmp_path: Path) -> None:
    gate = Gate()
    with serving(tmp_path, gate.backend) as served, served.openai() as client:
        lines = [chat_line(f"r{i}", f"text {i}", max_tokens=1 + i % 3) for i in range(30)]
        lines.insert(7, chat_line("hot", temperature=9))
        lines.insert(9, chat_line("long", "x" * 2000))
        lines.insert(11, chat_line("streamed", stream=True))
        lines.insert(13, chat_line("many", n=200))
        lines.insert(15, chat_line("lost", model="other"))
        lines.insert(17, chat_line("strange", colour="red"))
        made = begin(client, lines, metadata={"job": "1"})
        assert (made.status, made.object, made.endpoint) == ("validating", "batch", CHAT)
        assert made.expires_at == made.created_at + 24 * HOUR_S
        batch = wait_for(client, made.id)
        output = results(client, batch.output_file_id)
        errors = results(client, batch.error_file_id)
        rows = served.rows(36)
        file = client.files.retrieve(batch.output_file_id or "")
        eventually(lambda: served.journals == [])
        finished = {"completed": 31, "failed": 5}
        for outcome, count in finished.items():
            assert (
                served.server.metrics.counters[f"headrace:batch_requests_total:{outcome}"] == count
            )
        eventually(lambda: served.server.metrics.gauges["headrace:batches_unfinished"] == 0)
    assert (batch.status, batch.metadata, batch.errors) == ("completed", {"job": "1"}, None)
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (36, 31, 5)
    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert list(times) == sorted(time or 0 for time in times)
    assert batch.model is None
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert file.expires_at == file.created_at + 30 * 24 * HOUR_S

    assert set(output) == {f"r{i}" for i in range(30)} | {"strange"}
    for line in output.values():
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert (line["error"], line["response"]["status_code"]) == (None, 200)
        assert line["response"]["request_id"].startswith(batch.id)
    answer = output["r4"]["response"]["body"]
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"] == "Hello,"
    assert output["strange"]["response"]["warnings"] == ["colour"]
    assert {name: line["response"]["status_code"] for name, line in errors.items()} == {
        "hot": 400, "long": 400, "streamed": 400, "many": 400, "lost": 404,
    }  # fmt: skip
    found = {name: line["response"]["body"]["error"] for name, line in errors.items()}
    assert found["long"]["code"] == "context_length_exceeded"
    assert found["streamed"]["param"] == "stream"
    assert "at most 128 answers" in found["many"]["message"]

    # The ledger, the batch and the bodies agree, and everything is in the tenant's name.
    assert {(row["tenant"], row["operation"]) for row in rows} == {("acme", CHAT)}
    assert sorted(row["request_id"] for row in rows) == sorted(
        f"{batch.id}:{i + 1}" for i in range(36)
    )
    bodies = [line["response"]["body"]["usage"] for line in output.values()]
    usage = batch.usage
    assert usage is not None
    assert usage.input_tokens == sum(body["prompt_tokens"] for body in bodies)
    assert usage.output_tokens == sum(body["completion_tokens"] for body in bodies) > 30
    assert usage.total_tokens == sum(body["total_tokens"] for body in bodies)
    assert usage.output_tokens == sum(row["output_tokens"] for row in rows)
    assert all(request.is_background for request in gate.backend.requests)
    assert {request.tenant for request in gate.backend.requests} == {"acme"}
    assert 1 < gate.most_at_once <= 4


def test_lines_that_are_answered_have_a_limit_on_their_bytes(tmp_path: Path) -> None:
    """As bodies of requests have: answers at a time say nothing of how large lines are."""
    gate = Gate()
    config = ServerConfig(
        port=0, max_batch_requests=4, max_body_bytes=4096, max_total_body_bytes=8192
    )
    large = {f"k{number}": "x" * 500 for number in range(6)}
    with serving(tmp_path, gate.backend, config) as served, served.openai() as client:
        lines = [chat_line(str(number), metadata=large, max_tokens=20) for number in range(12)]
        assert 8192 // len(json.dumps(lines[0])) == 2
        batch = wait_for(client, begin(client, lines).id)
        room = served.server.app.batch_worker.room
        assert (batch.request_counts.completed, room.num_taken) == (12, 0)  # type: ignore[union-attr]
        assert gate.most_at_once <= 2
        small = [chat_line(str(number), max_tokens=20) for number in range(12)]
        wait_for(client, begin(client, small).id)
    assert gate.most_at_once > 2


def test_completions_with_several_prompts(tmp_path: Path) -> None:
    url = "/v1/completions"
    bodies = [{"model": "tiny", "prompt": ["a", "b"] * 3, "n": 2}, {"model": "tiny", "prompt": "c"}]
    lines = [
        {"custom_id": str(i), "method": "POST", "url": url, "body": body}
        for i, body in enumerate(bodies)
    ]
    with serving(tmp_path) as served, served.openai() as client:
        batch = wait_for(client, begin(client, lines, endpoint=url).id)
        output = results(client, batch.output_file_id)
    assert [len(output[name]["response"]["body"]["choices"]) for name in "01"] == [12, 1]


def test_embeddings(tmp_path: Path) -> None:
    url = "/v1/embeddings"
    body = {"model": "tiny", "input": ["a", "b", "c"]}
    line = {"custom_id": "a", "method": "POST", "url": url, "body": body}
    with serving(tmp_path) as served, served.openai() as client:
        batch = wait_for(client, begin(client, [line], endpoint=url).id)
        output = results(client, batch.output_file_id)
        assert all(request.is_background for request in served.server.backend.requests)
    assert len(output["a"]["response"]["body"]["data"]) == 3


def test_responses(tmp_path: Path) -> None:
    def ask(name: str, **body: Any) -> dict[str, Any]:
        fields = {"model": "tiny", "input": "hi"} | body
        return {"custom_id": name, "method": "POST", "url": "/v1/responses", "body": fields}

    with serving(tmp_path) as served:
        client = served.openai()
        lines = [ask("a"), ask("b", stream=True), ask("c", background=True), ask("d", input=3)]
        batch = begin(client, lines, endpoint="/v1/responses")
        batch = wait_for(client, batch.id)
        good, bad = results(client, batch.output_file_id), results(client, batch.error_file_id)
    (body,) = [line["response"]["body"] for line in good.values()]
    assert (body["object"], body["status"]) == ("response", "completed")
    assert batch.usage is not None
    assert batch.usage.output_tokens == body["usage"]["output_tokens"]
    errors = {name: line["response"]["body"]["error"] for name, line in bad.items()}
    assert {name: error["param"] for name, error in errors.items()} == {
        "b": "stream",
        "c": "background",
        "d": "input",
    }


def test_a_line_has_a_task_and_wishes_for_the_cache_like_any_call(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        client = served.openai()
        lines = [
            chat_line("a", metadata={"task": "sort"}, cache={"no-cache": True, "ttl": 60}),
            chat_line("b", cache={"no-store": True, "namespace": "n"}, seed=3),
            chat_line("c", cache={"ttl": "long"}),
        ]
        batch = wait_for(client, begin(client, lines).id)
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1)
        (wrong,) = results(client, batch.error_file_id).values()
        rows = {row["request_id"].rpartition(":")[2]: row for row in served.rows(3)}
    assert wrong["response"]["body"]["error"]["param"] == "cache.ttl"
    assert [rows[number]["task"] for number in "123"] == ["sort", None, None]
    asked = {request.sampling.seed: request for request in served.server.backend.requests}
    second = asked.pop(3)
    (first,) = asked.values()
    assert (first.task, second.task) == ("sort", None)
    assert first.cache_control == CacheControl(reads=False, ttl_s=60)
    assert second.cache_control == CacheControl(writes=False, namespace="n", is_seeded=True)


def test_lines_are_kept_to_be_run_again(tmp_path: Path) -> None:
    class Log:
        def __init__(self) -> None:
            self.kept: list[StoredRequest] = []

        def append(self, request: StoredRequest) -> None:
            self.kept.append(request)

    with serving(tmp_path) as served:
        log = served.server.app.services.accounts.requests = Log()
        client = served.openai()
        batch = wait_for(client, begin(client, [chat_line("a", seed=7)]).id)
        assert results(client, batch.output_file_id)["a"]["response"]["status_code"] == 200
    (kept,) = log.kept
    assert kept.request_id.startswith(f"{batch.id}:")
    assert (kept.tenant, kept.operation, kept.body["seed"]) == ("acme", CHAT, 7)
    assert [len(answer.token_ids) for answer in kept.answers[0]] == [5]


def test_an_ended_batch_is_forgotten_after_its_retention(tmp_path: Path) -> None:
    clock = FakeClock(1_000_000.0)
    with serving(tmp_path, clock=clock) as served:
        client = served.openai()
        batch = wait_for(client, begin(client, [chat_line("a")]).id)
        batches = served.door.storage.batches
        clock.advance(60 * 24 * HOUR_S)
        assert batches.sweep() == 0
        clock.advance(2)
        assert batches.sweep() == 1
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve(batch.id)
        assert batches.sweep() == 0


def test_a_wrong_file_fails_as_a_whole(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.openai() as client:
        lines = [chat_line("a"), b"{", chat_line("a"), chat_line("b", url="/v1/completions")]
        batch = wait_for(client, begin(client, lines).id)
        empty = wait_for(client, begin(client, []).id)
        assert served.server.backend.requests == []
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at is not None
    assert batch.errors is not None
    errors = [(error.code, error.line, error.param) for error in batch.errors.data or ()]
    assert errors == [
        ("invalid_json_line", 2, None),
        ("duplicate_custom_id", 3, "custom_id"),
        ("url_mismatch", 4, "url"),
    ]
    assert empty.errors is not None
    assert [error.code for error in empty.errors.data or ()] == ["empty_file"]


def test_cancelling_keeps_what_is_finished(tmp_path: Path) -> None:
    gate = Gate(lambda text: text == "slow")
    with serving(tmp_path, gate.backend) as served, served.openai() as client:
        texts = ["quick"] * 5 + ["slow"] * 10
        made = begin(client, [chat_line(f"{i}", text) for i, text in enumerate(texts)])
        eventually(lambda: len(gate.texts) == 9)
        assert served.server.app.services.lifetime.num_running == 0
        cancelled = client.batches.cancel(made.id)
        assert cancelled.status in ("cancelling", "cancelled")
        batch = wait_for(client, made.id)
        assert batch.status == "cancelled"
        assert batch.cancelled_at >= batch.cancelling_at  # type: ignore[operator]
        output = results(client, batch.output_file_id)
        errors = results(client, batch.error_file_id)
        assert client.batches.cancel(made.id).status == "cancelled"
        # Room for the next one.
        done = wait_for(client, begin(client, [chat_line("a")]).id)
        with pytest.raises(openai.BadRequestError, match="is completed; one that is validating"):
            client.batches.cancel(done.id)
    assert set(output) == {str(i) for i in range(5)}
    assert set(errors) == {str(i) for i in range(5, 15)}
    assert {line["response"] for line in errors.values()} == {None}
    assert {line["error"]["code"] for line in errors.values()} == {"batch_cancelled"}
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (15, 5, 0)
    assert len(gate.texts) == 10


def test_a_batch_for_another_version_waits_and_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock(1_800_000_000.0)
    with serving(tmp_path, clock=clock) as served, served.openai() as client:
        batches, lines = served.door.storage.batches, [chat_line("a")]
        values = {"tenant": "acme", "key_id": None, "endpoint": "/v1/songs", "window_s": HOUR_S}
        strange = [
            batches.create(NewBatch(input_file_id=upload(client, lines), **values), 10).id  # type: ignore[arg-type]
            for _ in range(2)
        ]
        assert wait_for(client, begin(client, lines).id).status == "completed"
        assert [client.batches.retrieve(name).status for name in strange] == ["validating"] * 2
        client.batches.cancel(strange[0])
        assert wait_for(client, strange[0]).status == "cancelled"
        clock.advance(HOUR_S)
        assert wait_for(client, strange[1]).status == "expired"
    said = [record.getMessage() for record in caplog.records if "/v1/songs" in record.getMessage()]
    assert said == [
        f"{name} waits for a version of headrace that serves /v1/songs to batches"
        for name in strange
    ]


def test_an_expired_batch_returns_and_bills_what_was_finished(tmp_path: Path) -> None:
    gate, clock = Gate(lambda text: text == "slow"), FakeClock(1_800_000_000.0)
    with serving(tmp_path, gate.backend, clock=clock) as served, served.openai() as client:
        lines = [chat_line(str(i), text) for i, text in enumerate(["quick", "slow", "quick"])]
        policy: Any = {"anchor": "created_at", "seconds": 7200}
        made = begin(client, lines, output_expires_after=policy)
        wait_for(client, made.id, "in_progress")
        eventually(lambda: len(served.ledger.rows()) == 2)
        clock.advance(24 * HOUR_S)
        served.server.call(served.server.app.services.batch_news.set)
        batch = wait_for(client, made.id)
        output = results(client, batch.output_file_id)
        errors = results(client, batch.error_file_id)
        file = client.files.retrieve(batch.output_file_id or "")
    assert (batch.status, batch.expired_at) == ("expired", batch.expires_at)
    assert (set(output), set(errors)) == ({"0", "2"}, {"1"})
    assert errors["1"]["error"]["code"] == "batch_expired"
    assert batch.usage is not None
    assert batch.usage.output_tokens == 10
    assert file.expires_at == file.created_at + 7200


def test_another_tenants_batch_is_unknown(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.openai() as client, served.openai("other") as stranger:
        made = begin(client, [chat_line("a")])
        batch = wait_for(client, made.id)
        for use in (stranger.batches.retrieve, stranger.batches.cancel):
            for batch_id in (made.id, "batch_" + "0" * 32, "x", "batch_%00"):
                with pytest.raises(openai.NotFoundError, match="There is no batch"):
                    use(batch_id)
        assert list(stranger.batches.list()) == []
        for file_id in (batch.input_file_id, batch.output_file_id):
            with pytest.raises(openai.NotFoundError):
                stranger.files.content(file_id or "")
            with pytest.raises(openai.BadRequestError, match="the id of a file of yours"):
                stranger.batches.create(
                    input_file_id=file_id or "", endpoint=CHAT, completion_window="24h"
                )
        assert [found.id for found in client.batches.list()] == [made.id]


def test_pages_of_the_official_client(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.openai() as client:
        ids = [begin(client, [chat_line("a")]).id for _ in range(5)]
        assert [found.id for found in client.batches.list(limit=2)] == ids[::-1]
        for batch_id in ids:
            assert wait_for(client, batch_id).status == "completed"


def test_one_long_batch_does_not_hold_another_tenant_up(tmp_path: Path) -> None:
    """Lines of two tenants take turns; a tenant's own batches run in their order."""
    texts, is_open = list[str](), threading.Event()

    async def admit(request: GenerateRequest) -> None:
        (message,) = request.messages or ()
        while not is_open.is_set():
            await asyncio.sleep(0.001)
        texts.append(message.content or "")

    with serving(tmp_path, FakeBackend(admission=admit)) as served, served.openai() as client:
        first = begin(client, [chat_line(str(i), "first") for i in range(40)])
        second = begin(client, [chat_line(str(i), "second") for i in range(8)])
        with served.openai("other") as stranger:
            other = begin(stranger, [chat_line(str(i), "other") for i in range(12)])
            slots = served.server.app.batch_worker.slots
            eventually(lambda: slots.num_waiting == 2)
            is_open.set()
            wait_for(stranger, other.id)
        for batch in (first, second):
            assert wait_for(client, batch.id).status == "completed"
    assert texts[-8:] == ["second"] * 8
    last_other = len(texts) - 1 - texts[::-1].index("other")
    assert texts[:last_other].count("first") <= 24  # 4 before, 12 in turns, few beside


def test_a_full_or_failing_engine_is_asked_again(tmp_path: Path) -> None:
    """Full twice, dead once; a request that ends the engine each time is given up."""
    refusals = {"full": 2, "dead": 1, "poison": 99}

    async def admit(request: GenerateRequest) -> None:
        (message,) = request.messages or ()
        text = message.content or ""
        if refusals.get(text, 0) > 0:
            refusals[text] -= 1
            raise CapacityError("full") if text == "full" else EngineDied("gone", retryable=True)

    with serving(tmp_path, FakeBackend(admission=admit)) as served, served.openai() as client:
        lines = [chat_line(text, text) for text in ("full", "dead", "poison", "fine")]
        batch = wait_for(client, begin(client, lines).id)
        output = results(client, batch.output_file_id)
        errors = results(client, batch.error_file_id)
        rows = served.rows(4)
    assert set(output) == {"full", "dead", "fine"}
    assert errors["poison"]["response"]["status_code"] == 503
    assert refusals["poison"] == 96
    assert [row["http_status"] for row in rows].count(200) == 3
    assert len(rows) == 4


def test_a_line_that_never_fits_is_not_asked_again(tmp_path: Path) -> None:
    async def admit(request: GenerateRequest) -> None:
        raise TooManyAnswers(request.sampling.n, 2, request.sampling.n)

    with serving(tmp_path, FakeBackend(admission=admit)) as served, served.openai() as client:
        batch = wait_for(client, begin(client, [chat_line("many", "many", n=3)]).id)
        errors = results(client, batch.error_file_id)
    answer = errors["many"]["response"]
    assert (answer["status_code"], answer["body"]["error"]["param"]) == (400, "n")


class Resting(FakeBackend):
    """Paused until `state` says otherwise; counts who asks."""

    num_looks = 0

    def health(self) -> Health:
        self.num_looks += 1
        return super().health()


@dataclass
class Told:
    """A CallWatcher."""

    statuses: list[int | None] = field(default_factory=list)

    def ended(self, call: CallEnd) -> None:
        self.statuses.append(call.row.http_status)


def test_a_line_that_waits_for_a_paused_engine_is_no_failed_call(tmp_path: Path) -> None:
    told = Told()
    backend = Resting(state=Health("paused", "paused", is_recovering=True))
    with serving(tmp_path, backend, watchers=(told,)) as served, served.openai() as client:
        batch_id = begin(client, [chat_line("a")]).id
        wait_for(client, batch_id, "in_progress")
        most = backend.num_looks + 2
        eventually(lambda: backend.num_looks >= most)
        backend.state = Health("ready")
        assert wait_for(client, batch_id).status == "completed"
    assert told.statuses == [200]


def test_a_limit_of_the_key_is_not_used_up_by_batches(tmp_path: Path) -> None:
    limits = KeyLimits(requests_per_minute=3, max_concurrent_requests=1)
    with serving(tmp_path, limits=limits) as served, served.openai() as client:
        batch = wait_for(client, begin(client, [chat_line(str(i)) for i in range(20)]).id)
        assert batch.status == "completed"
        raw = client.chat.completions.with_raw_response.create(
            model="tiny", messages=[{"role": "user", "content": "hi"}]
        )
        assert raw.headers["x-ratelimit-remaining-requests"] == "2"


def test_a_tenant_has_so_many_unfinished_batches(tmp_path: Path) -> None:
    gate = Gate(lambda text: True)
    config = ServerConfig(port=0, max_tenant_batches=2)
    with serving(tmp_path, gate.backend, config) as served, served.openai() as client:
        ids = [begin(client, [chat_line("a")]).id for _ in range(2)]
        with pytest.raises(openai.RateLimitError, match="2 batches are not finished"):
            begin(client, [chat_line("a")])
        with served.openai("other") as stranger:
            begin(stranger, [chat_line("a")])
        with pytest.raises(openai.BadRequestError, match=f"is the input of {ids[0]}"):
            client.files.delete(client.batches.retrieve(ids[0]).input_file_id)
        client.batches.cancel(ids[1])
        wait_for(client, ids[1])
        begin(client, [chat_line("a")])


@pytest.mark.parametrize("num_quick", [0, 3, 12])
def test_a_server_that_was_stopped_goes_on_where_it_was(tmp_path: Path, num_quick: int) -> None:
    """Every line once in the results and once as a finished call in the ledger."""
    texts = [f"quick{i}" if i < num_quick else f"slow{i}" for i in range(12)]
    lines = [chat_line(str(i), text) for i, text in enumerate(texts)]
    gate = Gate(lambda text: text.startswith("slow"))
    with serving(tmp_path, gate.backend) as served, served.openai() as client:
        made = begin(client, lines)
        wanted = num_quick + min(4, 12 - num_quick)
        eventually(lambda: len(gate.texts) == wanted)
        eventually(lambda: len(served.ledger.rows()) == num_quick)
    again = Gate()
    with serving(tmp_path, again.backend) as served, served.openai() as client:
        batch = wait_for(client, made.id)
        output = results(client, batch.output_file_id)

        def finished() -> list[str]:
            rows = served.ledger.rows()
            return sorted(row["request_id"] for row in rows if row["http_status"] == 200)

        eventually(lambda: len(finished()) >= 12)
        assert finished() == sorted(f"{made.id}:{i + 1}" for i in range(12))
    assert batch.status == "completed"
    assert sorted(output) == sorted(str(i) for i in range(12))
    assert sorted(again.texts) == sorted(texts[num_quick:])


def test_an_end_at_any_moment_of_the_last_steps(tmp_path: Path) -> None:
    """The files and rows as they are just before each write of the end, as a crash leaves them:
    whatever is done again, results are whole and there is one set of them."""
    home = tmp_path / "home"
    lines = [chat_line(str(i), f"text {i}", temperature=9 * (i % 2)) for i in range(6)]
    copies: list[Path] = []
    with serving(home) as served, served.openai() as client:
        batches = served.door.storage.batches

        def crash_before(name: str) -> None:
            real = getattr(batches, name)

            def copy_first(*arguments: Any, **changes: Any) -> Any:
                copies.append(tmp_path / f"{len(copies)}-{name}")
                shutil.copytree(home, copies[-1])
                return real(*arguments, **changes)

            setattr(batches, name, copy_first)

        for name in ("advance", "finish", "delete_journal", "open_journal"):
            crash_before(name)
        made = begin(client, lines)
        wait_for(client, made.id)
        eventually(lambda: "delete_journal" in copies[-1].name)
    assert len(copies) >= 6
    for copy in copies:
        gate = Gate()
        with serving(copy, gate.backend) as served, served.openai() as client:
            client.api_key = served.secrets["acme"]
            batch = wait_for(client, made.id)
            assert batch.status == "completed", copy
            assert set(results(client, batch.output_file_id)) == {"0", "2", "4"}
            assert set(results(client, batch.error_file_id)) == {"1", "3", "5"}
            files = served.door.storage.files.list("acme", FilePage(limit=9))[0]
            purposes = sorted(file.purpose for file in files)
            assert purposes == ["batch", "batch_output", "batch_output"]
            # One that was left behind at the very end goes with the sweep of a later day.
            is_left = "delete_journal" in copy.name
            left = [made.id] if is_left else []
            eventually(lambda served=served, left=left: served.journals == left)  # type: ignore[misc]
            if "finish" in copy.name or "delete" in copy.name:
                assert gate.texts == [], "answered lines are not asked again"


def test_the_second_server_of_a_storage_takes_over(tmp_path: Path) -> None:
    """Two servers, one folder: the first runs batches; when it ends the second one goes on."""
    slow, quick = Gate(lambda text: True), Gate()
    with ExitStack() as stack:
        first = stack.enter_context(serving(tmp_path, slow.backend))
        client = stack.enter_context(first.openai())
        made = begin(client, [chat_line(str(i)) for i in range(6)])
        eventually(lambda: len(slow.texts) == 4)
        with serving(tmp_path, quick.backend) as second, second.openai() as other:
            assert other.batches.retrieve(made.id).status == "in_progress"
            assert quick.texts == []
            stack.close()
            second.server.call(second.server.app.services.batch_news.set)
            assert wait_for(other, made.id).status == "completed"
    assert len(quick.texts) == 6


def test_a_drain_ends_lines_at_once_and_leaves_the_batch(tmp_path: Path) -> None:
    gate = Gate(lambda text: True)
    config = ServerConfig(port=0, shutdown_timeout_s=60)
    with serving(tmp_path, gate.backend, config) as served, served.openai() as client:
        made = begin(client, [chat_line("a")])
        eventually(lambda: len(gate.texts) == 1)
        served.server.call(served.server.server.stop)
        served.server.thread.join(60)
        assert not served.server.thread.is_alive()
        record = served.door.storage.batches.find("acme", made.id)
    assert record is not None
    assert record.status == "in_progress"


def test_the_context_of_a_line_is_its_own(tmp_path: Path) -> None:
    """An error that the engine finds while it answers ends in the error file too."""

    async def fail(request: GenerateRequest, step: int) -> None:
        if step == 1 and request.sampling.max_tokens == 3:
            raise ContextTooLong(5, 4)

    backend = FakeBackend(before_step=fail)
    with serving(tmp_path, backend) as served, served.openai() as client:
        lines = [chat_line("a", max_tokens=3), chat_line("b", max_tokens=4)]
        batch = wait_for(client, begin(client, lines).id)
        assert set(results(client, batch.output_file_id)) == {"b"}
        assert set(results(client, batch.error_file_id)) == {"a"}


async def test_an_interactive_request_runs_as_if_there_were_no_batch(tmp_path: Path) -> None:
    """The real scheduler and engine: in no step of the request is a token of a batch, and batches
    run at once before and after it."""

    def drive(served: Served, running: Running) -> Batch:
        def steps_of(name: str) -> list[SchedulerOutput]:
            return [
                step
                for step in list(running.runner.steps)
                if any(name in row.request_id for row in step.scheduled)
            ]

        with served.openai() as client:
            lines = [chat_line(str(i), "a batch", max_tokens=200) for i in range(12)]
            made = begin(client, lines)
            eventually(lambda: any(len(s.scheduled) > 3 for s in list(running.runner.steps)))
            client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "somebody waits"}],
                max_tokens=60,
                extra_body={"request_id": "mine"},
            )
            own = steps_of("mine")
            assert len(own) >= 60
            assert all(len(step.scheduled) == 1 for step in own)
            return wait_for(client, made.id)

    async with running_engine() as running:
        with serving(tmp_path, running.backend) as served:  # type: ignore[arg-type]
            batch = await asyncio.to_thread(drive, served, running)
        await running.until_idle()
    assert batch.status == "completed"


@pytest.fixture(scope="module")
def module_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("batches")) as running:
        yield running


RIGHT = {"input_file_id": "file-" + "0" * 24, "endpoint": CHAT, "completion_window": "24h"}


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"input_file_id": None}, "input_file_id", "input_file_id is null; allowed: the id of"),
        ({"input_file_id": 3}, "input_file_id", "input_file_id is 3; allowed: the id of"),
        ({"input_file_id": "../x"}, "input_file_id", "'../x'; allowed: the id of a file of yours"),
        ({}, "input_file_id", "allowed: the id of a file of yours with purpose batch"),
        (
            {"endpoint": "/v1/moderations"},
            "endpoint",
            "'/v1/moderations'; allowed: one of /v1/chat/completions, /v1/completions, ",
        ),
        ({"completion_window": "1h"}, "completion_window", "'1h'; allowed: 24h."),
        ({"metadata": {"a": 1}}, "metadata", "an object of at most 16 texts"),
        ({"metadata": {"a" * 65: "b"}}, "metadata", "keys of at most 64"),
        ({"metadata": {"a": "b" * 513}}, "metadata", "values of at most 512"),
        ({"metadata": {str(i): "b" for i in range(17)}}, "metadata", "at most 16"),
        ({"metadata": "x"}, "metadata", "an object of at most 16 texts"),
        ({"output_expires_after": 3}, "output_expires_after", "an object such as"),
        ({"output_expires_after": {}}, "output_expires_after[anchor]", "created_at"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 3}},
            "output_expires_after[seconds]",
            "a whole number from 3600 to 2592000",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 3600, "x": 1}},
            "output_expires_after.x",
            "not supported",
        ),
    ],
)
def test_a_wrong_body_is_refused(
    module_served: Served, changes: dict[str, Any], param: str, message: str
) -> None:
    with module_served.client() as client:
        reply = client.post("/v1/batches", json=RIGHT | changes)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param), error
    assert message in error["message"]


def test_missing_fields_other_methods_and_no_key(module_served: Served) -> None:
    with module_served.client() as client:
        for name in RIGHT:
            body = {key: value for key, value in RIGHT.items() if key != name}
            error = client.post("/v1/batches", json=body).json()["error"]
            assert (error["param"], error["code"]) == (name, "missing_required_parameter")
        assert client.post("/v1/batches", content=b"{}").status_code == 415
        assert client.delete("/v1/batches/x").status_code == 405
        for query in ("limit=0", "limit=101", "after=x"):
            reply = client.get(f"/v1/batches?{query}")
            assert reply.status_code == 400
            assert reply.json()["error"]["param"] == query.split("=")[0]
        with client.stream("GET", "/v1/batches/x/cancel") as reply:
            assert reply.status_code == 405
        client.headers.pop("authorization")
        assert client.get("/v1/batches").status_code == 401


def test_unknown_fields_are_named(module_served: Served) -> None:
    with module_served.openai() as client, module_served.client() as raw:
        body = RIGHT | {"input_file_id": upload(client, [chat_line("a")]), "colour": "red"}
        reply = raw.post("/v1/batches", json=body)
        assert reply.headers["x-headrace-warnings"] == "colour"
        assert wait_for(client, json.loads(reply.text)["id"]).status == "completed"
