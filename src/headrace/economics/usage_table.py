"""The table of usage rows, and how older ones become it.

A column is a field of UsageRow. In: a connection. Out: the table at the newest version. Knows no
query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    case,
    func,
)

from headrace.economics.usage_row import SHADOW
from headrace.store.database import add_missing_columns

USAGE_ROWS = Table(
    "usage_rows",
    MetaData(),
    Column("row_id", String, primary_key=True),
    Column("request_id", String, nullable=False),
    Column("accepted_at_ms", BigInteger, nullable=False),
    Column("day", String(10), nullable=False),
    Column("tenant", String, nullable=False),
    Column("key_id", String),
    Column("operation", String, nullable=False),
    Column("model", String),
    Column("usage_source", String, nullable=False),
    Column("input_tokens", BigInteger),
    Column("cached_input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("rejected_draft_tokens", BigInteger),
    Column("estimated_input_tokens", BigInteger, nullable=False),
    Column("queue_s", Double),
    Column("prefill_s", Double),
    Column("decode_s", Double),
    Column("first_token_s", Double),
    Column("duration_s", Double),
    Column("finish_reason", String),
    Column("error", String),
    Column("http_status", Integer),
    Column("cache_write_tokens", BigInteger),
    Column("cache_write_1h_tokens", BigInteger),
    Column("provider", String),
    Column("tags", String),
    Column("price_state", String),
    Column("price_id", String),
    Column("input_rate", BigInteger),
    Column("cached_input_rate", BigInteger),
    Column("cache_write_rate", BigInteger),
    Column("cache_write_1h_rate", BigInteger),
    Column("output_rate", BigInteger),
    Column("reasoning_rate", BigInteger),
    Column("cost_nano_usd", BigInteger),
    Column("marginal_nano_usd", BigInteger),
    Column("task", String),
    Column("tier", String),
    Column("backend", String),
    Column("route_reason", String),
    Column("attempt", Integer),
    Column("is_part", Integer),
    Column("user_digest", String),
    Column("safety_digest", String),
    Column("cache_key_digest", String),
    Column("prefill_compute_s", Double),
    Column("decode_compute_s", Double),
    Index("usage_rows_by_time", "accepted_at_ms"),
    Index("usage_rows_by_request", "request_id"),
    sqlite_with_rowid=False,
)

_ADD = add_missing_columns(USAGE_ROWS)
# One for each version: the table, then what costs need, then routing, then for whom a caller asks,
# then what calls were computed for.
STEPS = (USAGE_ROWS.create, _ADD, _ADD, _ADD, _ADD)
# What else was paid for a call, and comparisons, for which nobody called.
IS_PART = USAGE_ROWS.c.is_part.is_not(None) | (USAGE_ROWS.c.operation == SHADOW)
NUM_CALLS = func.coalesce(func.sum(case((IS_PART, 0), else_=1)), 0)
NUM_ERRORS = func.coalesce(
    func.sum(case((USAGE_ROWS.c.error.is_not(None) & ~IS_PART, 1), else_=0)), 0
)
NUM_PARTS = func.coalesce(func.sum(case((IS_PART, 1), else_=0)), 0)


def in_order(columns: Sequence[ColumnElement[Any]]) -> list[ColumnElement[Any]]:
    """What to order by: what is unknown comes first, in PostgreSQL too."""
    return [column.nulls_first() for column in columns]
