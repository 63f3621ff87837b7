"""Costs added up: by tenant, key, model, tag and day, and in lines of token kinds for export.

In: the rows of the usage ledger. Out: totals. A sum of costs is of the rows that have one; those
without are counted beside it. Changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Select, case, func, select

from headrace.core.frozen import frozen
from headrace.economics.prices import KINDS
from headrace.economics.usage_table import NUM_CALLS, NUM_ERRORS, NUM_PARTS, USAGE_ROWS, in_order
from headrace.store.database import Database

CostDimension = Literal["tenant", "key", "user", "model", "tag", "tier", "task", "day"]
COST_DIMENSIONS: tuple[CostDimension, ...] = get_args(CostDimension)

_c = USAGE_ROWS.c
_GROUPS: dict[CostDimension, Any] = {
    "tenant": _c.tenant,
    "key": _c.key_id,
    "user": _c.user_digest,
    "model": _c.model,
    "tag": _c.tags,
    "tier": _c.tier,
    "task": _c.task,
    "day": _c.day,
}
_RATES = {kind: _c[f"{kind}_rate"] for kind in KINDS}


@frozen(kw_only=True)
class CostTotal:
    """Sums over the rows of one group. Units: tokens, nano-dollars.

    `requests` are calls, of which `errors` were refused, failed or left; `parts` are what other
    backends were paid for one, which a group by tier or model can have without a call of its own.
    Everything else counts both. `estimated` are rows whose prompt was charged by its length.
    `unpriced` are in no cost: those without a price, and those of the time before costs were kept.
    A cost is None, never 0, where all of a group is.
    """

    group: tuple[str | None, ...]
    requests: int
    errors: int
    parts: int
    unpriced: int
    stale: int
    estimated: int
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int | None
    marginal_nano_usd: int | None


@frozen(kw_only=True)
class CostLine:
    """Tokens of one kind at one price: of a tenant, key, model, tier, task, tags and day.

    `usage_source` is who counted them: see UsageRow.
    """

    day: str
    tenant: str
    key_id: str | None
    provider: str
    model: str
    tier: str | None
    task: str | None
    usage_source: str
    tags: tuple[str, ...]
    price_id: str
    price_state: str
    kind: str
    tokens: int
    nano_usd_per_mtok: int


def add_up(
    database: Database,
    by: Sequence[CostDimension],
    since_ms: int | None = None,
    until_ms: int | None = None,
) -> list[CostTotal]:
    """Totals in order of their groups. A call with several tags is in the group of each.

    Raises: StoreError.
    """
    groups = [_GROUPS[name] for name in by]
    query = select(
        *groups,
        NUM_CALLS,
        NUM_ERRORS,
        NUM_PARTS,
        _count(_c.cost_nano_usd.is_(None)),
        _count(_c.price_state == "stale"),
        _count(_c.usage_source == "estimated"),
        _sum(_c.input_tokens) + _sum(_c.estimated_input_tokens),
        _sum(_c.output_tokens),
        _sum_known(_c.cost_nano_usd),
        _sum_known(_c.marginal_nano_usd),
    )
    query = _between(query, since_ms, until_ms).group_by(*groups).order_by(*in_order(groups))
    with database.reading() as connection:
        totals = [_to_total(len(groups), row) for row in connection.execute(query)]
    if "tag" in by:
        totals = _by_tag(totals, by.index("tag"))
    return [_with_nothing_owed(total) for total in totals]


def lines(
    database: Database, since_ms: int | None = None, until_ms: int | None = None
) -> list[CostLine]:
    """Priced tokens by kind, in order of day and tenant. Raises: StoreError."""
    groups = [
        *(_c.day, _c.tenant, _c.key_id, _c.provider, _c.model),
        *(_c.tier, _c.task, _c.usage_source, _c.tags),
        *(_c.price_id, _c.price_state, *_RATES.values()),
    ]
    apart = (
        _sum(_c.cached_input_tokens) + _sum(_c.cache_write_tokens) + _sum(_c.cache_write_1h_tokens)
    )
    query = select(
        *groups,
        _sum(_c.input_tokens) + _sum(_c.estimated_input_tokens) - apart,
        _sum(_c.cached_input_tokens),
        _sum(_c.cache_write_tokens),
        _sum(_c.cache_write_1h_tokens),
        _sum(_c.output_tokens) - _sum(_c.reasoning_tokens),
        _sum(_c.reasoning_tokens),
    ).where(_c.price_id.is_not(None))
    query = _between(query, since_ms, until_ms).group_by(*groups).order_by(*in_order(groups))
    with database.reading() as connection:
        return [line for row in connection.execute(query) for line in _to_lines(row)]


def _to_lines(row: Any) -> Iterator[CostLine]:
    day, tenant, key_id, provider, model, tier, task, source, tags, price_id, state, *rest = row
    rates, counts = rest[: len(KINDS)], rest[len(KINDS) :]
    for kind, rate, tokens in zip(KINDS, rates, counts, strict=True):
        if tokens and rate is not None:
            yield CostLine(
                day=day,
                tenant=tenant,
                key_id=key_id,
                provider=provider,
                model=model,
                tier=tier,
                task=task,
                usage_source=source,
                tags=tuple(json.loads(tags)) if tags else (),
                price_id=price_id,
                price_state=state,
                kind=kind,
                tokens=int(tokens),
                nano_usd_per_mtok=int(rate),
            )


def _between(query: Select[Any], since_ms: int | None, until_ms: int | None) -> Select[Any]:
    if since_ms is not None:
        query = query.where(_c.accepted_at_ms >= since_ms)
    if until_ms is not None:
        query = query.where(_c.accepted_at_ms < until_ms)
    return query


def _sum_known(column: Any) -> ColumnElement[Any]:
    """None where nothing was priced: refused calls owe nothing, and say nothing of those beside.

    A row without a state, as an older program wrote them, counts with what it has.
    """
    return func.sum(case((_c.price_state.is_distinct_from("none"), column)))


def _with_nothing_owed(total: CostTotal) -> CostTotal:
    """Where nothing was computed, 0 is owed."""
    if total.cost_nano_usd is not None or total.unpriced:
        return total
    return replace(total, cost_nano_usd=0, marginal_nano_usd=0)


def _sum(column: Any) -> ColumnElement[Any]:
    return func.coalesce(func.sum(column), 0)


def _count(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)


def _to_total(num_groups: int, row: Any) -> CostTotal:
    group, (*counts, cost, marginal) = tuple(row[:num_groups]), row[num_groups:]
    requests, errors, parts, unpriced, stale, estimated, num_input, num_output = map(int, counts)
    return CostTotal(
        group=group,
        requests=requests,
        errors=errors,
        parts=parts,
        unpriced=unpriced,
        stale=stale,
        estimated=estimated,
        input_tokens=num_input,
        output_tokens=num_output,
        cost_nano_usd=None if cost is None else int(cost),
        marginal_nano_usd=None if marginal is None else int(marginal),
    )


def _by_tag(totals: Sequence[CostTotal], place: int) -> list[CostTotal]:
    """Groups of sets of tags to groups of tags."""
    found: dict[tuple[str | None, ...], CostTotal] = {}
    for total in totals:
        stored = total.group[place]
        tags: list[str | None] = [None] if stored is None else json.loads(stored)
        for tag in tags:
            group = (*total.group[:place], tag, *total.group[place + 1 :])
            known = found.get(group)
            single = replace(total, group=group)
            found[group] = single if known is None else _add(known, single)
    ordered = sorted(found, key=lambda group: [part or "" for part in group])
    return [found[group] for group in ordered]


def _add(one: CostTotal, other: CostTotal) -> CostTotal:
    return CostTotal(
        group=one.group,
        requests=one.requests + other.requests,
        errors=one.errors + other.errors,
        parts=one.parts + other.parts,
        unpriced=one.unpriced + other.unpriced,
        stale=one.stale + other.stale,
        estimated=one.estimated + other.estimated,
        input_tokens=one.input_tokens + other.input_tokens,
        output_tokens=one.output_tokens + other.output_tokens,
        cost_nano_usd=_add_costs(one.cost_nano_usd, other.cost_nano_usd),
        marginal_nano_usd=_add_costs(one.marginal_nano_usd, other.marginal_nano_usd),
    )


def _add_costs(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else one + other
