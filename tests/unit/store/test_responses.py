"""Stored responses in a real database: their tenant's alone, for a time, ended once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.fake_clock import FakeClock
from fakes.usage import open_database
from headrace.core.errors import RequestError, StoreError
from headrace.core.responses import StoredResponse
from headrace.store.responses import LEASE_MS, StoredResponses

DAY_S = 24 * 3600.0
MOST = 2**20


def make(name: str, clock: FakeClock, **changes: object) -> StoredResponse:
    response = StoredResponse(
        id=name,
        tenant="acme",
        created_at_s=clock.unix_s(),
        status="completed",
        body=f'{{"id": "{name}", "text": "\\u0000 wörld 🌊"}}'.encode(),
        input_items=b"[]",
    )
    return replace(response, **changes)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_000_000.0)


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[StoredResponses]:
    database = open_database(tmp_path)
    yield StoredResponses(database, clock, retention_days=2)
    database.close()


def test_a_response_is_found_as_it_was_kept(store: StoredResponses, clock: FakeClock) -> None:
    kept = make("r1", clock, events=b"\x00\xff", input_items=b'[{"id": "m"}]')
    store.add(kept)
    assert store.find("acme", "r1") == kept
    assert store.history("acme", "r1", MOST) == [replace(kept, events=None)]
    assert (store.find("acme", "r2"), store.history("acme", "r2", MOST)) == (None, [])


def test_the_oldest_of_a_tenant_that_have_ended_make_room(tmp_path: Path, clock: FakeClock) -> None:
    database = open_database(tmp_path)
    store = StoredResponses(database, clock, retention_days=2, max_per_tenant=3)
    store.add(make("running", clock, status="in_progress"))
    for number in range(4):
        clock.advance(1)
        store.add(make(f"r{number}", clock))
        store.add(make(f"other{number}", clock, tenant="other"))
    kept = [name for name in ("running", "r0", "r1", "r2", "r3") if store.find("acme", name)]
    assert kept == ["running", "r2", "r3"]
    kept = [f"other{n}" for n in range(4) if store.find("other", f"other{n}")]
    assert kept == ["other1", "other2", "other3"]
    database.close()


def test_a_table_of_version_one_gets_its_index(tmp_path: Path, clock: FakeClock) -> None:
    database = open_database(tmp_path)
    StoredResponses(database, clock, retention_days=2).add(make("r1", clock))
    with database.writing() as connection:
        connection.exec_driver_sql("DROP INDEX responses_by_tenant")
        connection.exec_driver_sql("UPDATE schema_versions SET version = 1")
    store = StoredResponses(database, clock, retention_days=2)
    assert store.find("acme", "r1") is not None
    with database.reading() as connection:
        made = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'index'")
        assert "responses_by_tenant" in made.scalars().all()
    database.close()


def test_it_is_unknown_to_other_tenants(store: StoredResponses, clock: FakeClock) -> None:
    store.add(make("r1", clock))
    store.add(make("r2", clock, tenant="other", previous_id="r1"))
    assert store.find("other", "r1") is None
    assert store.delete("other", "r1") is False
    assert [found.id for found in store.history("other", "r2", MOST)] == ["r2"]
    assert store.delete("acme", "r1") is True
    assert store.delete("acme", "r1") is False
    assert store.find("acme", "r1") is None


def test_a_conversation_comes_in_order(store: StoredResponses, clock: FakeClock) -> None:
    previous = None
    for number in range(120):
        store.add(make(f"r{number}", clock, previous_id=previous))
        previous = f"r{number}"
    store.add(make("branch", clock, previous_id="r1"))
    assert [found.id for found in store.history("acme", "r119", MOST)] == [
        f"r{n}" for n in range(120)
    ]
    assert [found.id for found in store.history("acme", "branch", MOST)] == ["r0", "r1", "branch"]
    with pytest.raises(RequestError, match=r"ends with branch has \d+ B; allowed: at most 9 B"):
        store.history("acme", "branch", 9)
    assert store.history("acme", "nobody", 0) == []
    store.delete("acme", "r50")
    left = store.history("acme", "r119", MOST)
    assert (left[0].id, left[0].previous_id, len(left)) == ("r51", "r50", 69)


def test_an_old_one_is_out_of_reach_and_then_removed(
    store: StoredResponses, clock: FakeClock
) -> None:
    store.add(make("old", clock))
    clock.advance(DAY_S)
    store.add(make("new", clock, previous_id="old"))
    clock.advance(DAY_S)
    assert store.find("acme", "old") is None
    assert store.delete("acme", "old") is False
    assert [found.id for found in store.history("acme", "new", MOST)] == ["new"]
    assert (store.sweep(), store.sweep()) == (1, 0)
    assert store.find("acme", "new") is not None


def test_a_shorter_retention_holds_for_what_is_there(tmp_path: Path, clock: FakeClock) -> None:
    database = open_database(tmp_path)
    StoredResponses(database, clock, retention_days=30).add(make("r1", clock))
    clock.advance(1.5 * DAY_S)
    shorter = StoredResponses(database, clock, retention_days=1)
    assert shorter.find("acme", "r1") is None
    assert shorter.sweep() == 1
    database.close()


def test_one_that_runs_is_held_by_a_lease(store: StoredResponses, clock: FakeClock) -> None:
    store.add(make("r1", clock, status="queued"))
    store.add(make("r2", clock, status="in_progress"))
    store.add(make("done", clock))
    clock.advance(LEASE_MS / 1000 - 1)
    assert store.renew(["r1", "done", "never"]) == {"r1"}
    clock.advance(2)
    lost = {name: found.is_lost for name in ("r1", "r2", "done")
            if (found := store.find("acme", name))}  # fmt: skip
    assert lost == {"r1": False, "r2": True, "done": False}
    assert store.renew(["r2"]) == {"r2"}
    assert store.find("acme", "r2").is_lost is False


def test_it_ends_once(store: StoredResponses, clock: FakeClock) -> None:
    store.add(make("r1", clock, status="queued"))
    assert store.update("r1", "in_progress", b"{}") is True
    assert store.update("r1", "cancelled", b'{"a": 1}', b"log") is True
    assert store.update("r1", "completed", b'{"a": 2}') is False
    assert store.renew(["r1"]) == frozenset()
    ended = store.find("acme", "r1")
    assert (ended.status, ended.body, ended.events) == ("cancelled", b'{"a": 1}', b"log")
    store.delete("acme", "r1")
    assert store.update("r1", "completed", b"{}") is False


def test_an_id_is_kept_once(store: StoredResponses, clock: FakeClock) -> None:
    store.add(make("r1", clock))
    with pytest.raises(StoreError):
        store.add(make("r1", clock))
