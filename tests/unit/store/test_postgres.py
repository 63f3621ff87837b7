"""Keys and usage in a real PostgreSQL: the same answers as SQLite, and a server that goes away."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from fakes.fake_clock import FakeClock
from fakes.postgres import Postgres, running_postgres
from fakes.served_app import run_server
from fakes.stored import CHAT, open_storage
from fakes.stored_cases import CASES, Case, run_case
from fakes.usage import Ledger, eventually, make_row, open_database
from headrace.core.budgets import Budget
from headrace.core.errors import ConfigError, StoreError
from headrace.core.responses import StoredResponse
from headrace.core.stored_requests import StoredAnswer, StoredRequest
from headrace.core.stores import KeyLimits
from headrace.economics.cost_report import COST_DIMENSIONS, add_up, lines
from headrace.economics.ledger import DIMENSIONS, UsageLedger
from headrace.economics.usage_table import USAGE_ROWS
from headrace.store.budgets import BudgetStore
from headrace.store.database import Database
from headrace.store.keys import KeyStore
from headrace.store.requests import RequestStore
from headrace.store.responses import StoredResponses

COST_COLUMNS = (
    *("cache_write_tokens", "cache_write_1h_tokens", "provider", "tags", "price_state", "price_id"),
    *("input_rate", "cached_input_rate", "cache_write_rate", "cache_write_1h_rate", "output_rate"),
    *("reasoning_rate", "cost_nano_usd", "marginal_nano_usd"),
)
MOST = 2**20
LIMITS = KeyLimits(output_tokens_per_minute=10**12, max_concurrent_requests=3)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as running:
        yield running


@pytest.fixture
def database(server: Postgres) -> Iterator[Database]:
    database = Database(server.url)
    with database.writing() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    yield database
    database.close()


def test_keys(database: Database) -> None:
    store = KeyStore(database, FakeClock())
    empty = store.stamp()
    key, secret = store.create("ci", "acme", ["inference", "admin"], LIMITS)
    assert store.ring().find(secret) == key
    assert KeyStore(database, FakeClock()).list() == [key]
    made = store.stamp()
    store.revoke("ci")
    assert store.ring().find(secret) is None
    assert len({empty, made, store.stamp()}) == 3


def test_responses(database: Database) -> None:
    clock = FakeClock(1_000_000.0)
    store = StoredResponses(database, clock, retention_days=1)
    first = StoredResponse(
        id="r1",
        tenant="acme",
        created_at_s=clock.unix_s(),
        status="queued",
        body='{"text": "\\u0000 wörld 🌊"}'.encode(),
        input_items=b"[]",
    )
    store.add(first)
    assert store.renew(["r1", "r9"]) == {"r1"}
    assert store.update("r1", "completed", first.body, b"\x00log") is True
    assert store.update("r1", "failed", b"{}") is False
    store.add(replace(first, id="r2", status="completed", previous_id="r1"))
    kept = replace(first, status="completed")
    assert store.find("acme", "r1") == replace(kept, events=b"\x00log")
    assert store.find("other", "r1") is None
    assert store.history("acme", "r2", MOST) == [kept, replace(kept, id="r2", previous_id="r1")]
    assert (store.delete("acme", "r1"), store.delete("acme", "r1")) == (True, False)
    clock.advance(24 * 3600)
    assert (store.find("acme", "r2"), store.sweep()) == (None, 1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_files_and_batches(case: Case, database: Database, tmp_path: Path) -> None:
    run_case(case, tmp_path, database)


def test_stored_requests(database: Database) -> None:
    clock = FakeClock()
    store = RequestStore(database, clock, 2, redacts=False)
    request = StoredRequest(
        request_id="req_1",
        tenant="acme",
        created_at_s=clock.now_s,
        operation="/v1/completions",
        model="tiny",
        body={"prompt": "é\ud800\x00"},
        answers=((StoredAnswer((1, 2), None),),),
        receipt={"parameters": {}, "requests": [], "model": None},
    )
    store.append([request, request])
    first, second = store.find("req_1", "acme")
    assert first == second
    assert (first.body, first.answers) == (request.body, request.answers)
    clock.advance(2 * 86_400)
    assert not store.find("req_1")
    assert (store.sweep(), store.sweep()) == (2, 0)


def test_usage_and_costs_add_up_as_in_sqlite(database: Database, tmp_path: Path) -> None:
    source = random.Random(6)
    rows = [
        make_row(
            source.randrange(3) * 86_400_000 + number,
            tenant=source.choice("ab"),
            key_id=source.choice([None, "k1", "k2"]),
            model=source.choice([None, "m", "n"]),
            provider="local",
            tags=source.choice([None, '["nightly"]', '["a", "b%"]']),
            price_state=source.choice(["priced", "unpriced", "stale"]),
            price_id=source.choice([None, "p"]),
            input_rate=10**9,
            output_rate=2 * 10**9,
            cost_nano_usd=source.choice([None, source.randrange(2**50)]),
            marginal_nano_usd=source.choice([None, source.randrange(2**40)]),
            prefill_s=source.choice([None, 0.5]),
            input_tokens=source.choice([None, source.randrange(2**40)]),
            queue_s=source.choice([None, 0.25]),
            error=source.choice([None, "EngineDied"]),
        )
        for number in range(300)
    ]
    sqlite = open_database(tmp_path)
    ledgers = UsageLedger(database), UsageLedger(sqlite)
    for ledger in ledgers:
        ledger.append(rows)
        ledger.append(rows[:50])
    for by in DIMENSIONS:
        assert ledgers[0].report([by]) == ledgers[1].report([by])
    for cost_by in COST_DIMENSIONS:
        assert add_up(database, [cost_by, "day"]) == add_up(sqlite, [cost_by, "day"])
    assert lines(database) == lines(sqlite) != []
    assert ledgers[0].served_calls("m") == ledgers[1].served_calls("m") != []
    owners = (("tenant", "a"), ("key", "k1"), ("model", "m"), ("tag", "b%"), ("all", ""))
    second_day = datetime.fromtimestamp(rows[150].accepted_at_ms / 1000, UTC).date()
    for scope, name in owners:
        for begin in (date.min, second_day):
            budget = Budget(scope=scope, name=name, period="month", stop_nano_usd=1)
            spent = [ledger.spent_since(budget, begin) for ledger in ledgers]
            assert spent[0] == spent[1] > 0
    middle_ms = sorted(row.accepted_at_ms for row in rows)[150]
    assert ledgers[0].report(["day"], middle_ms) == ledgers[1].report(["day"], middle_ms)
    sqlite.close()


def test_budgets(database: Database) -> None:
    clock = FakeClock(1_000_000.0)
    store = BudgetStore(database, clock)
    empty = store.stamp()
    budget = Budget(scope="tenant", name="acme", period="month", stop_nano_usd=10**18)
    store.set(budget)
    assert store.list() == [replace(budget, changed_at_s=1_000_000.0)]
    clock.advance(1)
    made = store.stamp()
    store.set(replace(budget, warn_nano_usd=5))
    assert len({empty, made, store.stamp()}) == 3
    store.remove(budget.id)
    assert (store.list(), store.stamp()) == ([], empty)


def test_tables_of_an_older_program_become_the_newest(database: Database) -> None:
    """A program of the version before that still runs goes on, and cannot be started again."""
    KeyStore(database, FakeClock()).create("ci", "acme", ["inference"], LIMITS)
    UsageLedger(database).append([make_row(1)])
    older = {
        "api_keys": ("priority", "num_changes", "expires_at_ms"),
        "usage_rows": tuple(COST_COLUMNS),
    }
    with database.writing() as connection:
        for table, columns in older.items():
            for column in columns:
                connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(text("UPDATE schema_versions SET version = 1"))
    store, ledger = KeyStore(database, FakeClock()), UsageLedger(database)
    assert [key.priority for key in store.list()] == [0]
    assert store.change("ci", priority=3).priority == 3
    old = {k: value for k, value in make_row(2)._asdict().items() if k not in COST_COLUMNS}
    with database.writing() as connection:
        connection.execute(USAGE_ROWS.insert().values(old))
    ledger.append([make_row(3, cost_nano_usd=7)])
    (total,) = add_up(database, ["tenant"])
    assert (total.requests, total.unpriced, total.cost_nano_usd) == (3, 2, 7)
    for part in ("keys", "usage"):
        with pytest.raises(StoreError, match="made by a newer headrace"):
            database.prepare(part, [lambda _: None])


def test_servers_that_start_together_make_the_tables_once(
    server: Postgres, database: Database
) -> None:
    errors: list[Exception] = []

    def prepare() -> None:
        own = Database(server.url)
        try:
            KeyStore(own, FakeClock())
            UsageLedger(own).append([make_row(1)])
        except Exception as error:
            errors.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=prepare) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    (total,) = UsageLedger(database).report(["tenant"])
    assert total.requests == 6


def test_a_server_that_goes_and_comes_back_loses_no_row(
    server: Postgres, database: Database, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path, database=database)
    ledger.writer.append(make_row(1))
    eventually(lambda: ledger.count("ledger_rows") == 1)
    server.stop()
    try:
        for number in range(2, 50):
            ledger.writer.append(make_row(number))
        eventually(lambda: ledger.writer.is_failing)
        with pytest.raises(StoreError, match="postgresql"):
            ledger.rows()
    finally:
        server.start()
    eventually(lambda: not ledger.writer.is_failing and not ledger.writer.num_waiting)
    assert len(ledger.rows()) == 49
    ledger.close()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    database = Database(f"postgresql://someone:secret@/x?host={tmp_path}")
    with pytest.raises(StoreError) as caught:
        KeyStore(database, FakeClock())
    assert "someone:***@" in caught.value.message
    assert "secret" not in caught.value.message
    database.close()


def test_without_its_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[postgres\]'"):
        Database("postgresql://localhost/x")


def test_names_that_no_database_takes(database: Database, tmp_path: Path) -> None:
    """PostgreSQL has no NUL in its texts; who sends one has made a mistake, and the server none."""
    responses = StoredResponses(database, FakeClock(1_000_000.0), retention_days=1)
    batch = {"endpoint": CHAT, "completion_window": "24h", "input_file_id": "file-\0"}
    asked = {"model": "tiny", "input": "hi", "previous_response_id": "resp_\0"}
    with (
        open_storage(tmp_path, database=database) as door,
        run_server(open_responses=lambda: responses, storage=door) as server,
        server.client() as client,
    ):
        replies = [
            *(client.get(f"/v1/{kind}/%00") for kind in ("files", "batches", "responses")),
            *(client.get(f"/v1/{kind}?after=a%00") for kind in ("files", "batches")),
            client.delete("/v1/files/%00"),
            client.delete("/v1/responses/%00"),
            client.post("/v1/batches/%00/cancel"),
            client.get("/v1/responses/%00/input_items"),
            client.get("/v1/models/%00"),
            client.post("/v1/batches", json=batch),
            client.post("/v1/responses", json=asked),
        ]
        file_id = client.post(
            "/v1/files", data={"purpose": "batch"}, files={"file": ("a", b"{}")}
        ).json()["id"]
        made = client.post(
            "/v1/batches", json=batch | {"input_file_id": file_id, "metadata": {"a": "\0"}}
        )
    assert [reply.status_code for reply in replies] == [404] * 10 + [400] * 2
    assert (made.status_code, made.json().get("metadata")) == (200, {"a": "\0"})
