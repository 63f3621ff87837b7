"""StoredResponses: responses in the database, each for a limited time.

In: StoredResponses. Out: the same, to their tenant, until they are deleted or older than the
retention allows; an old one is out of reach at once and removed by the next `sweep`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, get_args

from sqlalchemy import (
    CTE,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    Text,
    and_,
    delete,
    func,
    literal,
    select,
    update,
)

from headrace.core.clock import Clock
from headrace.core.errors import RequestError
from headrace.core.responses import RUNNING, ResponseStatus, StoredResponse
from headrace.core.units import format_bytes
from headrace.store.database import Database

# Several servers may share a database: none can tell from its own start which responses are dead.
LEASE_MS = 20_000

_DAY_MS = 24 * 3600 * 1000
_STATUSES: dict[str, ResponseStatus] = {status: status for status in get_args(ResponseStatus)}

_responses = Table(
    "responses",
    MetaData(),
    Column("id", String(64), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("status", String(16), nullable=False),
    Column("lease_until_ms", BigInteger),
    Column("previous_id", String(64)),
    Column("body", Text, nullable=False),
    Column("input_items", Text, nullable=False),
    Column("events", LargeBinary),
    Index("responses_by_time", "created_at_ms"),
)
_BY_TENANT = Index("responses_by_tenant", _responses.c.tenant, _responses.c.created_at_ms)


def _index_tenants(connection: Connection) -> None:
    """A table of version 1 lacks it; a new one has it."""
    _BY_TENANT.create(connection, checkfirst=True)


# One for each version: the table, then what counts the responses of a tenant.
_STEPS = (_responses.create, _index_tenants)
_SIZE = (func.length(_responses.c.body) + func.length(_responses.c.input_items)).label("size")
_WITHOUT_EVENTS = tuple(column for column in _responses.c if column.name != "events")
_IS_RUNNING = _responses.c.status.in_(sorted(RUNNING))


class StoredResponses:
    """A ResponseStore."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        retention_days: int,
        max_per_tenant: int = 2**31,
    ) -> None:
        """Raises: StoreError when the table cannot be made or is of a newer program."""
        self._database, self._clock = database, clock
        self._retention_ms = retention_days * _DAY_MS
        self._max_per_tenant = max_per_tenant
        database.prepare("responses", _STEPS)

    def add(self, response: StoredResponse) -> None:
        """See ResponseStore."""
        row = {
            "id": response.id,
            "tenant": response.tenant,
            "created_at_ms": int(response.created_at_s * 1000),
            "status": response.status,
            "lease_until_ms": self._lease_ms() if response.status in RUNNING else None,
            "previous_id": response.previous_id,
            "body": response.body.decode(),
            "input_items": response.input_items.decode(),
            "events": response.events,
        }
        with self._database.writing() as connection:
            self._make_room(connection, response.tenant)
            connection.execute(_responses.insert().values(row))

    def update(
        self, response_id: str, status: ResponseStatus, body: bytes, events: bytes | None = None
    ) -> bool:
        """See ResponseStore."""
        values = {
            "status": status,
            "body": body.decode(),
            "events": events,
            "lease_until_ms": self._lease_ms() if status in RUNNING else None,
        }
        change = update(_responses).where(_responses.c.id == response_id, _IS_RUNNING)
        with self._database.writing() as connection:
            return connection.execute(change.values(values)).rowcount > 0

    def renew(self, response_ids: Collection[str]) -> frozenset[str]:
        """See ResponseStore."""
        ours = and_(_responses.c.id.in_(sorted(response_ids)), _IS_RUNNING)
        with self._database.writing() as connection:
            values = {"lease_until_ms": self._lease_ms()}
            connection.execute(update(_responses).where(ours).values(values))
            return frozenset(connection.scalars(select(_responses.c.id).where(ours)))

    def find(self, tenant: str, response_id: str) -> StoredResponse | None:
        """See ResponseStore."""
        query = select(_responses).where(self._is_of(tenant), _responses.c.id == response_id)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else self._read(row, row.events)

    def history(self, tenant: str, response_id: str, max_bytes: int) -> Sequence[StoredResponse]:
        """See ResponseStore."""
        sizes = self._chain(tenant, response_id, (_responses.c.previous_id, _SIZE))
        chain = self._chain(tenant, response_id, _WITHOUT_EVENTS)
        with self._database.reading() as connection:
            num_bytes = int(connection.scalar(select(func.sum(sizes.c.size))) or 0)
            if num_bytes > max_bytes:
                raise RequestError(
                    f"The conversation that ends with {response_id} has {format_bytes(num_bytes)}; "
                    f"allowed: at most {format_bytes(max_bytes)}, four request bodies "
                    "(max_body_bytes). Begin a new one.",
                    "previous_response_id",
                    "invalid_value",
                )
            rows = connection.execute(select(chain).order_by(chain.c.depth.desc()))
            return [self._read(row) for row in rows]

    def _chain(self, tenant: str, response_id: str, columns: Sequence[Any]) -> CTE:
        """A response and those it continues, `depth` steps back."""
        chain = (
            select(*columns, literal(0).label("depth"))
            .where(self._is_of(tenant), _responses.c.id == response_id)
            .cte(recursive=True)
        )
        earlier = self._is_of(tenant), _responses.c.id == chain.c.previous_id
        return chain.union_all(select(*columns, chain.c.depth + 1).where(*earlier))

    def delete(self, tenant: str, response_id: str) -> bool:
        """See ResponseStore."""
        query = delete(_responses).where(self._is_of(tenant), _responses.c.id == response_id)
        with self._database.writing() as connection:
            return connection.execute(query).rowcount > 0

    def sweep(self) -> int:
        """Remove what is too old. Returns how many. Raises: StoreError."""
        with self._database.writing() as connection:
            return connection.execute(delete(_responses).where(~self._is_kept())).rowcount

    def _make_room(self, connection: Connection, tenant: str) -> None:
        """Remove a tenant's oldest responses that have ended, where it has all it may."""
        ours = _responses.c.tenant == tenant
        number = connection.scalar(select(func.count()).select_from(_responses).where(ours)) or 0
        if number >= self._max_per_tenant:
            oldest = (
                select(_responses.c.id)
                .where(ours, ~_IS_RUNNING)
                .order_by(_responses.c.created_at_ms)
                .limit(number - self._max_per_tenant + 1)
            )
            ids = connection.scalars(oldest).all()
            connection.execute(delete(_responses).where(_responses.c.id.in_(ids)))

    def _is_of(self, tenant: str) -> ColumnElement[bool]:
        return and_(_responses.c.tenant == tenant, self._is_kept())

    def _is_kept(self) -> ColumnElement[bool]:
        """By the retention of today: a shorter one holds for what is there already."""
        return _responses.c.created_at_ms > self._now_ms() - self._retention_ms

    def _now_ms(self) -> int:
        return int(self._clock.unix_s() * 1000)

    def _lease_ms(self) -> int:
        return self._now_ms() + LEASE_MS

    def _read(self, row: Row[Any], events: bytes | None = None) -> StoredResponse:
        status = _STATUSES[row.status]
        is_over = row.lease_until_ms is None or row.lease_until_ms <= self._now_ms()
        return StoredResponse(
            id=row.id,
            tenant=row.tenant,
            created_at_s=row.created_at_ms / 1000,
            status=status,
            body=row.body.encode(),
            input_items=row.input_items.encode(),
            previous_id=row.previous_id,
            events=events,
            is_lost=status in RUNNING and is_over,
        )
