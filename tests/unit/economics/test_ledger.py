"""The table of usage: rows once, whole batches, sums that agree with Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from fakes.usage import NOON_MS, make_row, open_database
from headrace.core.errors import StoreError
from headrace.economics.ledger import UsageLedger, UsageTotal
from headrace.economics.usage_row import UsageRow
from headrace.economics.usage_table import STEPS
from headrace.store.database import Database

DAY_MS = 86_400_000


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[UsageLedger]:
    database = open_database(tmp_path)
    yield UsageLedger(database)
    database.close()


def random_row(number: int, source: random.Random) -> UsageRow:
    prompt, answer = source.randrange(1, 10**6), source.randrange(10**6)
    is_known = source.random() < 0.8
    return make_row(
        source.randrange(3) * DAY_MS + number,
        tenant=source.choice("ab"),
        key_id=source.choice([None, "k1", "k2"]),
        model=source.choice(["m", "n", None]),
        user_digest=source.choice([None, "u1", "u2"]),
        input_tokens=prompt if is_known else None,
        cached_input_tokens=source.randrange(prompt) if is_known else None,
        output_tokens=answer if is_known else None,
        estimated_input_tokens=0 if is_known else prompt,
        queue_s=source.random() if is_known else None,
        error=source.choice([None, None, "client_disconnected"]),
    )


def total_of(rows: list[UsageRow], name: str) -> int:
    return sum(getattr(row, name) or 0 for row in rows)


def test_every_field_comes_back_as_it_was(ledger: UsageLedger, tmp_path: Path) -> None:
    row = make_row(
        7,
        key_id="k",
        operation="/v1/completions",
        model="m",
        usage_source="measured",
        input_tokens=2**40,
        cached_input_tokens=5,
        output_tokens=6,
        reasoning_tokens=3,
        rejected_draft_tokens=2,
        estimated_input_tokens=1,
        queue_s=0.1,
        prefill_s=0.2,
        decode_s=0.3,
        first_token_s=0.4,
        duration_s=0.5,
        finish_reason="length,stop",
        error="EngineDied",
        http_status=200,
    )
    ledger.append([row])
    with ledger._database.reading() as connection:
        (found,) = connection.execute(text("SELECT * FROM usage_rows")).mappings()
    assert dict(found) == row._asdict()


def test_sums_are_those_of_the_rows(ledger: UsageLedger) -> None:
    source = random.Random(3)
    rows = [random_row(number, source) for number in range(500)]
    ledger.append(rows)
    totals = ledger.report(["tenant", "day"])
    groups = sorted({(row.tenant, row.day) for row in rows})
    assert [total.group for total in totals] == groups
    for total in totals:
        own = [row for row in rows if (row.tenant, row.day) == total.group]
        assert total.requests == len(own)
        assert total.errors == sum(row.error is not None for row in own)
        for name in ("input", "cached_input", "output", "estimated_input", "rejected_draft"):
            assert getattr(total, f"{name}_tokens") == total_of(own, f"{name}_tokens")
        assert total.queue_s == pytest.approx(sum(row.queue_s or 0 for row in own))


@pytest.mark.parametrize(
    "by", [["tenant"], ["key"], ["model"], ["day"], ["model", "key"], ["user"]]
)
def test_every_grouping_adds_up_to_the_whole(ledger: UsageLedger, by: list[str]) -> None:
    source = random.Random(4)
    rows = [random_row(number, source) for number in range(200)]
    ledger.append(rows)
    totals = ledger.report(by)  # type: ignore[arg-type]
    assert len(totals) == len({total.group for total in totals}) > 1
    assert sum(total.requests for total in totals) == 200
    assert sum(total.input_tokens for total in totals) == total_of(rows, "input_tokens")


def test_a_span_begins_with_its_first_and_ends_before_its_last(ledger: UsageLedger) -> None:
    ledger.append([make_row(number) for number in range(10)])
    (total,) = ledger.report(["tenant"], NOON_MS + 2, NOON_MS + 5)
    assert total.requests == 3
    assert ledger.report(["tenant"], NOON_MS + 10) == []


def test_a_row_is_written_once(ledger: UsageLedger) -> None:
    first, second = make_row(1, output_tokens=5), make_row(2, output_tokens=7)
    ledger.append([first])
    ledger.append([first, second])
    (total,) = ledger.report(["tenant"])
    assert (total.requests, total.output_tokens) == (2, 12)


def test_a_batch_is_written_whole_or_not_at_all(ledger: UsageLedger) -> None:
    bad = make_row(2)._replace(tenant=None)  # type: ignore[arg-type]
    with pytest.raises(StoreError):
        ledger.append([make_row(1), bad])
    assert ledger.report(["tenant"]) == []


def test_a_text_that_no_database_takes_is_written_all_the_same(ledger: UsageLedger) -> None:
    """One row that is refused for ever would keep all others from being written."""
    row = random_row(1, random.Random(1))
    ledger.append([row._replace(task="a\0b", error="\ud800", route_reason="名前")])
    (found,) = ledger.report(["model"])
    assert found.requests == 1


def test_an_empty_ledger_has_no_groups(ledger: UsageLedger) -> None:
    assert ledger.report(["model"]) == []
    empty: list[UsageTotal] = ledger.report(["day"], 0, 1)
    assert empty == []


def test_an_older_table_gets_the_columns_of_users_and_keeps_its_rows(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    make_older(database)
    with database.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO usage_rows (row_id, request_id, accepted_at_ms, day, tenant, "
                "operation, usage_source, estimated_input_tokens) "
                "VALUES ('0', 'r', 1, 'd', 't', '', 'none', 0)"
            )
        )
    ledger = UsageLedger(database)
    ledger.append([make_row(1, user_digest="u", safety_digest="s", cache_key_digest="c")])
    assert [total.group for total in ledger.report(["user"])] == [(None,), ("u",)]
    database.close()


def make_older(database: Database) -> None:
    """The table as the version before had it."""
    database.prepare("usage", STEPS[:3])
    with database.writing() as connection:
        for name in ("user_digest", "safety_digest", "cache_key_digest"):
            connection.execute(text(f"ALTER TABLE usage_rows DROP COLUMN {name}"))
