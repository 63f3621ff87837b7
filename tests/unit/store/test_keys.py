"""Keys in a real database: made once, found by their secret, revoked for good."""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.fake_clock import FakeClock
from headrace.core.errors import ConfigError
from headrace.core.stores import NO_LIMITS, KeyLimits
from headrace.store import key_ring
from headrace.store.database import Database, default_url
from headrace.store.keys import KeyStore

# As version 1 of the keys made them.
OLD_TABLES = """
CREATE TABLE schema_versions (part VARCHAR(32) NOT NULL PRIMARY KEY, version INTEGER NOT NULL);
INSERT INTO schema_versions VALUES ('keys', 1);
CREATE TABLE api_keys (
    id VARCHAR(32) NOT NULL PRIMARY KEY, digest BLOB NOT NULL, name VARCHAR(64) NOT NULL,
    tenant VARCHAR(64) NOT NULL, scopes VARCHAR(64) NOT NULL, requests_per_minute BIGINT,
    input_tokens_per_minute BIGINT, output_tokens_per_minute BIGINT,
    max_concurrent_requests INTEGER, created_at_ms BIGINT NOT NULL, revoked_at_ms BIGINT
);
INSERT INTO api_keys VALUES
    ('0123456789', x'00', 'ci', 'acme', 'inference', NULL, NULL, NULL, NULL, 1000, NULL);
"""
LIMITS = KeyLimits(requests_per_minute=3, output_tokens_per_minute=500)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    database = Database(default_url(tmp_path))
    database.create_file()
    yield KeyStore(database, FakeClock())
    database.close()


def test_a_key_is_found_by_its_secret_as_it_was_made(store: KeyStore) -> None:
    key, secret = store.create("ci", "acme", ["metrics", "inference"], LIMITS)
    assert secret.startswith(f"{key.prefix}_")
    assert (key.tenant, key.scopes, key.limits) == ("acme", ("inference", "metrics"), LIMITS)
    assert store.ring().find(secret) == key
    assert store.list() == [key]


def test_the_tenant_is_the_name_unless_another_is_given(store: KeyStore) -> None:
    key, _ = store.create("ci", None, ["inference"], NO_LIMITS)
    assert key.tenant == "ci"


def test_a_priority_is_kept_and_changed_and_the_stamp_tells(store: KeyStore) -> None:
    key, secret = store.create("ci", None, ["inference"], NO_LIMITS, -3)
    stamp = store.stamp()
    assert store.ring().find(secret) == key
    assert key.priority == -3
    changed = store.change(key.prefix, priority=5)
    assert store.ring().find(secret) == changed
    assert (changed.priority, changed.id) == (5, key.id)
    assert store.stamp() != stamp
    second = store.stamp()
    store.change("ci", priority=5)
    assert store.stamp() != second
    for wrong in (10**7, -(10**7)):
        with pytest.raises(ConfigError, match="--priority"):
            store.change("ci", priority=wrong)
    with pytest.raises(ConfigError, match="key in use"):
        store.change("nobody", priority=1)


def test_keys_of_an_older_database_have_the_usual_priority(tmp_path: Path) -> None:
    path = tmp_path / "headrace.db"
    with sqlite3.connect(path) as old:
        old.executescript(OLD_TABLES)
    old.close()
    database = Database(default_url(tmp_path))
    store = KeyStore(database, FakeClock())
    (key,) = store.list()
    assert (key.name, key.priority) == ("ci", 0)
    assert store.change("ci", priority=2).priority == 2
    store.create("new", None, ["inference"], NO_LIMITS, 1)
    assert [key.priority for key in store.list()] == [2, 1]
    database.close()


def test_no_other_text_is_a_key(store: KeyStore) -> None:
    key, secret = store.create("ci", None, ["inference"], NO_LIMITS)
    _, other = store.create("other", None, ["inference"], NO_LIMITS)
    ring = store.ring()
    wrong = [
        *("", "hr_", "hr__", key.id, key.prefix, f"{key.prefix}_", secret[:-1], secret + "a"),
        *(secret.upper(), f"x{secret}", "\ud800", "hr_\u00e9_x", f"hr_{key.id}_{'_' * 1000}"),
        f"{key.prefix}_{other.split('_', 2)[2]}",
    ]
    assert [text for text in wrong if ring.find(text) is not None] == []
    assert ring.find(secret) == key


def test_every_secret_is_compared_once_and_whole(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right, wrong, unknown or nonsense: one comparison of two digests, whose time is the same."""
    key, secret = store.create("ci", None, ["inference"], NO_LIMITS)
    ring, compared = store.ring(), []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    compare_digest = hmac.compare_digest
    monkeypatch.setattr(key_ring.hmac, "compare_digest", compare)
    for text in (secret, secret[:-1] + "!", f"{key.prefix}_", "hr_0123456789_x", "", "x" * 9000):
        ring.find(text)
    assert compared == [(32, 32)] * 6


def test_a_revoked_key_is_none_and_the_ring_stays_closed(store: KeyStore) -> None:
    assert store.ring().is_open
    key, secret = store.create("ci", None, ["inference"], NO_LIMITS)
    assert store.revoke(key.prefix).id == key.id
    ring = store.ring()
    assert (ring.find(secret), ring.is_open) == (None, False)
    assert [known.revoked_at_s is None for known in store.list()] == [False]
    with pytest.raises(ConfigError, match="there is none"):
        store.revoke("ci")
    again, _ = store.create("ci", None, ["inference"], NO_LIMITS)
    assert again.id != key.id


def test_every_change_changes_the_stamp(store: KeyStore) -> None:
    stamps = [store.stamp()]
    for name in ("a", "b"):
        store.create(name, None, ["inference"], NO_LIMITS)
        stamps.append(store.stamp())
    for name in ("a", "b"):
        store.revoke(name)
        stamps.append(store.stamp())
    assert len(set(stamps)) == 5


def test_the_file_holds_no_secret(store: KeyStore, tmp_path: Path) -> None:
    _, secret = store.create("ci", None, ["inference"], NO_LIMITS)
    random_part = secret.split("_", 2)[2].encode()
    store._database.close()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"ci" in content
    assert random_part not in content
    with sqlite3.connect(tmp_path / "headrace.db") as connection:
        assert len(connection.execute("SELECT digest FROM api_keys").fetchone()[0]) == 32
    connection.close()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "n" * 65}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"tenant": " a"}, "--tenant"),
        ({"scopes": ["inference", "root"]}, "--scope"),
        ({"scopes": []}, "--scope"),
        ({"limits": KeyLimits(requests_per_minute=0)}, "--requests-per-minute"),
        ({"limits": KeyLimits(max_concurrent_requests=-1)}, "--max-concurrent-requests"),
    ],
)
def test_what_a_key_cannot_be(store: KeyStore, changes: dict[str, object], field: str) -> None:
    values = {"name": "ci", "tenant": None, "scopes": ["inference"], "limits": NO_LIMITS}
    with pytest.raises(ConfigError) as caught:
        store.create(**(values | changes))  # type: ignore[arg-type]
    assert caught.value.field == field
    assert store.list() == []


def test_a_key_expires_by_the_clock_alone(tmp_path: Path) -> None:
    """No one has to read the database again: the ring that a server has refuses it."""
    database, clock = Database(default_url(tmp_path)), FakeClock(1000.0)
    database.create_file()
    store = KeyStore(database, clock)
    key, secret = store.create("ci", None, ["inference"], NO_LIMITS, expires_at_s=1060.0)
    ring = store.ring()
    assert ring.find(secret) == key == store.list()[0]
    clock.now_s = 1059.9
    assert (ring.find(secret), ring.are_all_ended) == (key, False)
    clock.now_s = 1060.0
    assert (ring.find(secret), ring.are_all_ended, ring.is_open) == (None, True, False)
    for change in (store.revoke, lambda name: store.change(name, never_expires=True)):
        with pytest.raises(ConfigError, match="key in use: there is none"):
            change("ci")
    second, _ = store.create("ci", None, ["inference"], NO_LIMITS)
    assert store.revoke("ci").id == second.id
    database.close()


def test_the_end_of_a_key_is_moved_and_taken_away(store: KeyStore) -> None:
    until_s = FakeClock().unix_s() + 60
    key, secret = store.create("ci", None, ["inference"], NO_LIMITS, 2, until_s)
    stamps = [store.stamp()]
    later = store.change("ci", expires_at_s=until_s + 60)
    assert store.ring().find(secret) == later
    assert (later.expires_at_s, later.priority) == (until_s + 60, 2)
    stamps.append(store.stamp())
    assert store.change("ci", priority=3).expires_at_s == until_s + 60
    assert store.change("ci", never_expires=True).expires_at_s is None
    stamps.append(store.stamp())
    assert len(set(stamps)) == 3
    assert [known.expires_at_s for known in store.list()] == [None]
    assert key.id == later.id


def test_two_keys_in_use_do_not_share_a_name(store: KeyStore) -> None:
    store.create("ci", None, ["inference"], NO_LIMITS)
    with pytest.raises(ConfigError, match="Revoke it first"):
        store.create("ci", None, ["inference"], NO_LIMITS)
