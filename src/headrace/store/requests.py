"""RequestStore: calls in the database, each for a limited time.

In: StoredRequests in batches. Out: the same by their id, until they are older than the retention
allows; an old one is out of reach at once and removed by the next `sweep`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    delete,
    select,
)

from headrace.core.clock import Clock
from headrace.core.stored_requests import StoredAnswer, StoredRequest
from headrace.store.database import Database

_DAY_MS = 24 * 3600 * 1000
# Texts of the caller's own among the parameters of a receipt.
_TEXT_PARAMETERS = frozenset({"stop", "bad_words"})

_requests = Table(
    "stored_requests",
    MetaData(),
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("request_id", String(128), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("operation", String(64), nullable=False),
    Column("model", Text, nullable=False),
    Column("body", Text),
    Column("body_sha256", String(64), nullable=False),
    Column("answers", Text),
    Column("answers_sha256", String(64), nullable=False),
    Column("receipt", Text, nullable=False),
    Index("stored_requests_by_time", "created_at_ms"),
    Index("stored_requests_by_id", "request_id"),
)
_STEPS = (_requests.create,)


class RequestStore:
    """Writes, finds and forgets calls."""

    def __init__(
        self, database: Database, clock: Clock, retention_days: int, redacts: bool = True
    ) -> None:
        """Raises: StoreError when the table cannot be made or is of a newer program."""
        self._database, self._clock, self._redacts = database, clock, redacts
        self._retention_ms = retention_days * _DAY_MS
        database.prepare("requests", _STEPS)

    def append(self, requests: Sequence[StoredRequest]) -> None:
        """Write all or none. Raises: StoreError."""
        rows = [self._row(request) for request in requests]
        with self._database.writing() as connection:
            connection.execute(_requests.insert(), rows)

    def find(self, request_id: str, tenant: str | None = None) -> Sequence[StoredRequest]:
        """Calls of that id, the newest first; of any tenant when none is named.

        Raises: StoreError.
        """
        query = select(_requests).where(
            _requests.c.request_id == request_id, _requests.c.created_at_ms > self._oldest_ms()
        )
        if tenant is not None:
            query = query.where(_requests.c.tenant == tenant)
        with self._database.reading() as connection:
            return [_read(row) for row in connection.execute(query.order_by(_requests.c.id.desc()))]

    def sweep(self) -> int:
        """Remove what is too old; returns how many. Raises: StoreError."""
        old = delete(_requests).where(_requests.c.created_at_ms <= self._oldest_ms())
        with self._database.writing() as connection:
            return connection.execute(old).rowcount

    def _oldest_ms(self) -> int:
        """By the retention of today: a shorter one holds for what is there already."""
        return int(self._clock.unix_s() * 1000) - self._retention_ms

    def _row(self, request: StoredRequest) -> dict[str, Any]:
        body = _encode(request.body)
        answers = _encode(
            [[[list(one.token_ids), one.finish_reason] for one in each] for each in request.answers]
        )
        receipt = _without_texts(request.receipt) if self._redacts else request.receipt
        return {
            "request_id": request.request_id,
            "tenant": request.tenant,
            "created_at_ms": int(request.created_at_s * 1000),
            "operation": request.operation,
            "model": request.model,
            "body": None if self._redacts else body,
            "body_sha256": _digest(body),
            "answers": None if self._redacts else answers,
            "answers_sha256": _digest(answers),
            "receipt": _encode(receipt),
        }


def _read(row: Row[Any]) -> StoredRequest:
    return StoredRequest(
        request_id=row.request_id,
        tenant=row.tenant,
        created_at_s=row.created_at_ms / 1000,
        operation=row.operation,
        model=row.model,
        body=None if row.body is None else json.loads(row.body),
        answers=tuple(
            tuple(StoredAnswer(tuple(token_ids), reason) for token_ids, reason in each)
            for each in json.loads(row.answers or "[]")
        ),
        receipt=json.loads(row.receipt),
        body_sha256=row.body_sha256,
        answers_sha256=row.answers_sha256,
    )


def _without_texts(receipt: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {
        name: parameter
        for name, parameter in receipt["parameters"].items()
        if name not in _TEXT_PARAMETERS
    }
    return {**receipt, "parameters": parameters}


def _encode(tree: object) -> str:
    """ASCII, so that every text fits into every database; equal trees are equal texts."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
