"""UsageLedger: the table of usage rows. Rows are appended, never changed.

In: UsageRows in batches. Out: sums by tenant, key, model and day. Reports read one state of the
database and make no writer wait.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal, get_args

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite

from headrace.core.budgets import Budget
from headrace.core.frozen import frozen
from headrace.economics.machine_price import ServedCall
from headrace.economics.usage_row import UsageRow
from headrace.economics.usage_table import (
    NUM_CALLS,
    NUM_ERRORS,
    NUM_PARTS,
    STEPS,
    USAGE_ROWS,
    in_order,
)
from headrace.store.database import Database

Dimension = Literal["tenant", "key", "user", "model", "tier", "task", "day"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

_GROUPS: dict[Dimension, Any] = {
    "tenant": USAGE_ROWS.c.tenant,
    "key": USAGE_ROWS.c.key_id,
    "user": USAGE_ROWS.c.user_digest,
    "model": USAGE_ROWS.c.model,
    "tier": USAGE_ROWS.c.tier,
    "task": USAGE_ROWS.c.task,
    "day": USAGE_ROWS.c.day,
}


@frozen(kw_only=True)
class UsageTotal:
    """Sums over the rows of one group. Units: tokens, seconds.

    `requests` and `errors` are of calls; `parts` are rows of other backends that worked for one.
    """

    group: tuple[str | None, ...]
    requests: int
    parts: int
    errors: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    rejected_draft_tokens: int
    estimated_input_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float


_SUMS = tuple(field.name for field in dataclasses.fields(UsageTotal))[4:]


def _storable(value: object) -> object:
    """A text that every database takes: one row that cannot be written would keep all others."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")


class UsageLedger:
    """Appends and adds up."""

    def __init__(self, database: Database) -> None:
        """Raises: StoreError when the table cannot be made or is of a newer program."""
        self._database = database
        database.prepare("usage", STEPS)
        dialect = sqlite if database.is_sqlite else postgresql
        # A batch whose commit was not confirmed is written again.
        self._insert = dialect.insert(USAGE_ROWS).on_conflict_do_nothing()

    def append(self, rows: Sequence[UsageRow]) -> None:
        """Write all of them or none; those that are there already stay as they are.

        Raises: StoreError.
        """
        values = [{name: _storable(value) for name, value in row._asdict().items()} for row in rows]
        with self._database.writing() as connection:
            connection.execute(self._insert, values)

    def spent_since(self, budget: Budget, begin: date) -> int:
        """Nano-dollars of the calls that a budget pays for, accepted since a UTC day.

        Raises: StoreError.
        """
        columns = USAGE_ROWS.c
        query = select(func.coalesce(func.sum(columns.cost_nano_usd), 0))
        if begin > date.min:
            begin_s = datetime(begin.year, begin.month, begin.day, tzinfo=UTC).timestamp()
            query = query.where(columns.accepted_at_ms >= int(begin_s * 1000))
        owners = {"tenant": columns.tenant, "key": columns.key_id, "model": columns.model}
        if budget.scope in owners:
            query = query.where(owners[budget.scope] == budget.name)
        elif budget.scope == "tag":
            # A JSON list; no name of a tag has a quote in it. Not LIKE: in SQLite that takes `A`
            # for `a`, and two tags are two budgets.
            without = func.replace(columns.tags, json.dumps(budget.name), "")
            query = query.where(without != columns.tags)
        with self._database.reading() as connection:
            return int(connection.scalar(query) or 0)

    def served_calls(
        self, model: str, since_ms: int | None = None, until_ms: int | None = None
    ) -> list[ServedCall]:
        """Calls that the engine here finished, by when they came. Raises: StoreError."""
        columns = USAGE_ROWS.c
        query = select(
            columns.accepted_at_ms,
            columns.queue_s,
            columns.prefill_s,
            columns.decode_s,
            columns.input_tokens - columns.cached_input_tokens,
            columns.output_tokens,
            columns.prefill_compute_s,
            columns.decode_compute_s,
        ).where(columns.model == model, columns.prefill_s.is_not(None))
        if since_ms is not None:
            query = query.where(columns.accepted_at_ms >= since_ms)
        if until_ms is not None:
            query = query.where(columns.accepted_at_ms < until_ms)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(columns.accepted_at_ms)).all()
        return [ServedCall(row[0] / 1000, *row[1:]) for row in rows]

    def report(
        self, by: Sequence[Dimension], since_ms: int | None = None, until_ms: int | None = None
    ) -> list[UsageTotal]:
        """Add up the calls accepted from `since_ms` until before `until_ms`, in order of groups.

        Raises: StoreError.
        """
        groups = [_GROUPS[name] for name in by]
        sums = [func.coalesce(func.sum(USAGE_ROWS.c[name]), 0) for name in _SUMS]
        query = select(*groups, NUM_CALLS, NUM_PARTS, NUM_ERRORS, *sums)
        if since_ms is not None:
            query = query.where(USAGE_ROWS.c.accepted_at_ms >= since_ms)
        if until_ms is not None:
            query = query.where(USAGE_ROWS.c.accepted_at_ms < until_ms)
        query = query.group_by(*groups).order_by(*in_order(groups))
        with self._database.reading() as connection:
            return [_to_total(len(groups), row) for row in connection.execute(query)]


def _to_total(num_groups: int, row: Sequence[Any]) -> UsageTotal:
    requests, parts, errors, *sums = row[num_groups:]
    values: dict[str, Any] = {
        name: float(value) if name.endswith("_s") else int(value)
        for name, value in zip(_SUMS, sums, strict=True)
    }
    counts = {"requests": int(requests), "parts": int(parts), "errors": int(errors)}
    return UsageTotal(group=tuple(row[:num_groups]), **counts, **values)
