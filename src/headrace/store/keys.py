"""KeyStore: API keys in the database.

In: what a person wants of a key. Out: its secret, once, and records without secrets. A key is made
and revoked, never deleted: usage rows name it. Of one in use only the priority and the moment at
which it expires change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    func,
    or_,
    select,
    update,
)

from headrace.core.clock import Clock
from headrace.core.errors import ConfigError
from headrace.core.stores import MAX_PRIORITY, SCOPES, ApiKey, KeyLimits, Scope
from headrace.store.database import Database, add_missing_columns
from headrace.store.key_ring import StoredKey, StoredKeys, hash_secret, make_secret

MAX_NAME_LENGTH = 64
MAX_LIMIT = 10**12

_LIMIT_NAMES = (
    "requests_per_minute",
    "input_tokens_per_minute",
    "output_tokens_per_minute",
    "max_concurrent_requests",
)
_keys = Table(
    "api_keys",
    MetaData(),
    Column("id", String(32), primary_key=True),
    Column("digest", LargeBinary(hashlib.sha256().digest_size), nullable=False),
    Column("name", String(MAX_NAME_LENGTH), nullable=False),
    Column("tenant", String(MAX_NAME_LENGTH), nullable=False),
    Column("scopes", String(64), nullable=False),
    Column("requests_per_minute", BigInteger),
    Column("input_tokens_per_minute", BigInteger),
    Column("output_tokens_per_minute", BigInteger),
    Column("max_concurrent_requests", Integer),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("num_changes", Integer, nullable=False, server_default="0"),
    Column("expires_at_ms", BigInteger),
)

# One for each version: the table, then priorities, then the moment at which a key expires.
_STEPS = (_keys.create, add_missing_columns(_keys), add_missing_columns(_keys))


class KeyStore:
    """Makes, lists and revokes keys."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Raises: StoreError when the table cannot be made or is of a newer program."""
        self._database, self._clock = database, clock
        database.prepare("keys", _STEPS)

    def create(
        self,
        name: str,
        tenant: str | None,
        scopes: Sequence[str],
        limits: KeyLimits,
        priority: int = 0,
        expires_at_s: float | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key; its secret is returned here and nowhere else. The tenant is the name's.

        One that has expired leaves its name free.

        Raises: ConfigError, StoreError.
        """
        tenant = name if tenant is None else tenant
        _check_text("name", name)
        _check_text("--tenant", tenant)
        _check_limits(limits)
        _check_priority(priority)
        key_id, secret = make_secret()
        created_at_ms = int(self._clock.unix_s() * 1000)
        key = ApiKey(
            id=key_id,
            name=name,
            tenant=tenant,
            scopes=_read_scopes(scopes),
            limits=limits,
            priority=priority,
            created_at_s=created_at_ms / 1000,
            expires_at_s=None if expires_at_s is None else int(expires_at_s * 1000) / 1000,
        )
        row = {
            "id": key.id,
            "digest": hash_secret(secret),
            "name": key.name,
            "tenant": key.tenant,
            "scopes": " ".join(key.scopes),
            "created_at_ms": created_at_ms,
            "priority": priority,
            "expires_at_ms": _to_ms(expires_at_s),
            **{limit: getattr(limits, limit) for limit in _LIMIT_NAMES},
        }
        with self._database.writing() as connection:
            active = select(_keys.c.id).where(
                _keys.c.name == name,
                _keys.c.revoked_at_ms.is_(None),
                or_(_keys.c.expires_at_ms.is_(None), _keys.c.expires_at_ms > created_at_ms),
            )
            if connection.execute(active).first() is not None:
                raise ConfigError("name", name, "a name that no key in use has", "Revoke it first.")
            connection.execute(_keys.insert().values(row))
        return key, secret

    def list(self) -> Sequence[ApiKey]:
        """Every key, revoked ones too, the oldest first. Raises: StoreError."""
        return [stored.key for stored in self._read()]

    def revoke(self, name: str) -> ApiKey:
        """End a key, named by its name, id or prefix.

        Raises: ConfigError when no key in use has that name; StoreError.
        """
        key = self._find_in_use(name)
        with self._database.writing() as connection:
            revoked_at_ms = int(self._clock.unix_s() * 1000)
            row = update(_keys).where(_keys.c.id == key.id)
            connection.execute(row.values(revoked_at_ms=revoked_at_ms))
        return key

    def change(
        self,
        name: str,
        *,
        priority: int | None = None,
        expires_at_s: float | None = None,
        never_expires: bool = False,
    ) -> ApiKey:
        """Give a key another priority, or another moment to expire; servers see it within seconds.

        What is not given stays as it was.
        Raises: ConfigError when no key in use has that name; StoreError.
        """
        if priority is not None:
            _check_priority(priority)
        key = self._find_in_use(name)
        key = replace(
            key,
            priority=key.priority if priority is None else priority,
            expires_at_s=key.expires_at_s if expires_at_s is None else expires_at_s,
        )
        if never_expires:
            key = replace(key, expires_at_s=None)
        changed = {"priority": key.priority, "expires_at_ms": _to_ms(key.expires_at_s)}
        with self._database.writing() as connection:
            row = update(_keys).where(_keys.c.id == key.id)
            connection.execute(row.values(**changed, num_changes=_keys.c.num_changes + 1))
        return key

    def ring(self) -> StoredKeys:
        """The keys as they are now. Raises: StoreError."""
        return StoredKeys(self._read(), self._clock)

    def stamp(self) -> tuple[int, ...]:
        """Numbers that change whenever a key does. Raises: StoreError."""
        with self._database.reading() as connection:
            counts = connection.execute(
                select(
                    func.count(_keys.c.id),
                    func.count(_keys.c.revoked_at_ms),
                    func.coalesce(func.sum(_keys.c.num_changes), 0),
                )
            ).one()
        return tuple(map(int, counts))

    def _find_in_use(self, name: str) -> ApiKey:
        """Raises: ConfigError, StoreError."""
        now_s = self._clock.unix_s()
        in_use = [stored.key for stored in self._read() if stored.key.is_in_use(now_s)]
        for key in in_use:
            if name in (key.name, key.id, key.prefix):
                return key
        names = ", ".join(key.name for key in in_use) or "there is none"
        raise ConfigError("key", name, f"the name or prefix of a key in use: {names}")

    def _read(self) -> Sequence[StoredKey]:
        with self._database.reading() as connection:
            rows = connection.execute(select(_keys).order_by(_keys.c.created_at_ms, _keys.c.id))
            return [_to_key(row) for row in rows]


def _to_key(row: Row[tuple[object, ...]]) -> StoredKey:
    known: dict[str, Scope] = {scope: scope for scope in SCOPES}
    key = ApiKey(
        id=row.id,
        name=row.name,
        tenant=row.tenant,
        scopes=tuple(known[name] for name in row.scopes.split() if name in known),
        limits=KeyLimits(**{name: getattr(row, name) for name in _LIMIT_NAMES}),
        priority=row.priority,
        created_at_s=row.created_at_ms / 1000,
        revoked_at_s=None if row.revoked_at_ms is None else row.revoked_at_ms / 1000,
        expires_at_s=None if row.expires_at_ms is None else row.expires_at_ms / 1000,
    )
    return StoredKey(key, bytes(row.digest))


def _to_ms(unix_s: float | None) -> int | None:
    return None if unix_s is None else int(unix_s * 1000)


def _read_scopes(names: Sequence[str]) -> tuple[Scope, ...]:
    """Raises: ConfigError."""
    unknown = [name for name in names if name not in SCOPES]
    if unknown or not names:
        raise ConfigError("--scope", unknown[0] if unknown else "", f"one of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in names)


def _check_text(field: str, text: str) -> None:
    if not 1 <= len(text) <= MAX_NAME_LENGTH or not text.isprintable() or text != text.strip():
        allowed = f"1 to {MAX_NAME_LENGTH} printable characters, no space at the ends"
        raise ConfigError(field, text[:80], allowed)


def _check_priority(priority: int) -> None:
    if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        allowed = f"a whole number from {-MAX_PRIORITY} to {MAX_PRIORITY}; lower runs earlier"
        raise ConfigError("--priority", priority, allowed)


def _check_limits(limits: KeyLimits) -> None:
    for name in _LIMIT_NAMES:
        value = getattr(limits, name)
        if value is not None and not 1 <= value <= MAX_LIMIT:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(flag, value, f"a whole number from 1 to {MAX_LIMIT}")
