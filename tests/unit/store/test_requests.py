"""Stored requests: found by their id while they are kept; redacted ones hold no text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from fakes.fake_clock import FakeClock
from fakes.usage import open_database
from headrace.core.stored_requests import StoredAnswer, StoredRequest
from headrace.store.database import Database
from headrace.store.requests import RequestStore

DAY_S = 24 * 3600
TEXT = "the secret é\ud800\x00"
NOW_S = 1_800_000_000.0


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(tmp_path)
    yield database
    database.close()


def call(**changes: Any) -> StoredRequest:
    parameters = {
        "temperature": {"value": 1.0, "source": "api"},
        "stop": {"value": [TEXT], "source": "request"},
    }
    values: dict[str, Any] = {
        "request_id": "req_1",
        "tenant": "acme",
        "created_at_s": NOW_S,
        "operation": "/v1/completions",
        "model": "tiny",
        "body": {"prompt": TEXT, "n": 2},
        "answers": ((StoredAnswer((1, 2), "stop"), StoredAnswer((), None)),),
        "receipt": {"parameters": parameters, "requests": [], "model": None},
    }
    return StoredRequest(**(values | changes))


def test_a_request_comes_back_as_it_was(database: Database) -> None:
    store = RequestStore(database, FakeClock(NOW_S), 30, redacts=False)
    store.append([call(), call(request_id="other")])
    (found,) = store.find("req_1")
    given = call()
    for name in ("tenant", "created_at_s", "operation", "model", "body", "answers", "receipt"):
        assert getattr(found, name) == getattr(given, name), name
    assert not found.is_redacted


def test_a_tenant_is_found_alone_and_the_newest_first(database: Database) -> None:
    store = RequestStore(database, FakeClock(NOW_S), 30, redacts=False)
    store.append([call(model="old"), call(tenant="beta"), call(model="new")])
    assert [found.model for found in store.find("req_1", "acme")] == ["new", "old"]
    assert [found.tenant for found in store.find("req_1", "beta")] == ["beta"]
    assert len(store.find("req_1")) == 3
    assert not store.find("req_1", "nobody")
    assert not store.find("req_2")


def test_a_redacted_request_has_digests_and_no_text(database: Database, tmp_path: Path) -> None:
    whole = RequestStore(database, FakeClock(NOW_S), 30, redacts=False)
    whole.append([call(request_id="whole")])
    (known,) = whole.find("whole")
    with database.writing() as connection:
        connection.execute(text("DELETE FROM stored_requests"))
    store = RequestStore(database, FakeClock(NOW_S), 30, redacts=True)
    store.append([call(), call(request_id="req_2", body={"prompt": "another"})])
    (found,) = store.find("req_1")
    assert found.is_redacted
    assert (found.body, found.answers) == (None, ())
    assert found.body_sha256 == known.body_sha256
    assert found.answers_sha256 == known.answers_sha256
    assert set(found.receipt["parameters"]) == {"temperature"}
    assert store.find("req_2")[0].body_sha256 != found.body_sha256
    with database.reading() as connection:
        rows = [str(row) for row in connection.execute(text("SELECT * FROM stored_requests"))]
    assert not any("secret" in row for row in rows)


def test_retention_hides_at_once_and_a_sweep_removes(database: Database) -> None:
    clock = FakeClock(NOW_S)
    store = RequestStore(database, clock, 2, redacts=False)
    store.append([call(), call(request_id="young", created_at_s=NOW_S + DAY_S)])
    later = RequestStore(database, FakeClock(NOW_S + 2 * DAY_S), 2)
    assert not later.find("req_1")
    assert len(later.find("young")) == 1
    assert (later.sweep(), later.sweep()) == (1, 0)
    assert not store.find("req_1")
