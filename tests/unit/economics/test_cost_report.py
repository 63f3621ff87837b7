"""Costs added up: what every row says, however it is grouped, and as FOCUS to the last digit."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from fakes.usage import NOON_MS, make_row, open_database
from headrace.economics.cost_report import COST_DIMENSIONS, add_up, lines
from headrace.economics.focus import FOCUS_COLUMNS, OWN_COLUMNS, focus_rows
from headrace.economics.ledger import UsageLedger
from headrace.economics.usage_row import UsageRow
from headrace.store.database import Database

DAY_MS = 86_400_000
# The table as it was before it had costs.
OLD_TABLE = """CREATE TABLE usage_rows (row_id VARCHAR NOT NULL PRIMARY KEY,
 request_id VARCHAR NOT NULL, accepted_at_ms BIGINT NOT NULL, day VARCHAR(10) NOT NULL,
 tenant VARCHAR NOT NULL, key_id VARCHAR, operation VARCHAR NOT NULL, model VARCHAR,
 usage_source VARCHAR NOT NULL, input_tokens BIGINT, cached_input_tokens BIGINT,
 output_tokens BIGINT, reasoning_tokens BIGINT, rejected_draft_tokens BIGINT,
 estimated_input_tokens BIGINT NOT NULL, queue_s DOUBLE, prefill_s DOUBLE, decode_s DOUBLE,
 first_token_s DOUBLE, duration_s DOUBLE, finish_reason VARCHAR, error VARCHAR,
 http_status INTEGER) WITHOUT ROWID"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path)
    yield opened
    opened.close()


def priced(number: int = 0, **changes: Any) -> UsageRow:
    """2 fresh and 8 cached tokens at 3 and 0.3, 5 of output at 15, of which 1 was thought."""
    values = {
        "provider": "anthropic",
        "model": "claude",
        "usage_source": "measured",
        "input_tokens": 10,
        "cached_input_tokens": 8,
        "output_tokens": 5,
        "reasoning_tokens": 1,
        "price_state": "priced",
        "price_id": "anthropic/claude@2026-09-01",
        "input_rate": 3_000_000_000,
        "cached_input_rate": 300_000_000,
        "cache_write_rate": 3_750_000_000,
        "cache_write_1h_rate": 6_000_000_000,
        "output_rate": 15_000_000_000,
        "reasoning_rate": 15_000_000_000,
        "cost_nano_usd": 6_000 + 2_400 + 75_000,
        "marginal_nano_usd": 83_400,
    }
    return make_row(number, **(values | changes))


def random_row(number: int, source: random.Random) -> UsageRow:
    cost = source.choice([None, 0, source.randrange(10**12)])
    return priced(
        source.randrange(3) * DAY_MS + number,
        tenant=source.choice("ab"),
        key_id=source.choice([None, "k1", "k2"]),
        model=source.choice(["m", "n", None]),
        tags=source.choice([None, '["x"]', '["x", "y"]']),
        input_tokens=source.choice([None, source.randrange(9, 100)]),
        estimated_input_tokens=source.randrange(10),
        price_state="unpriced" if cost is None else source.choice(["priced", "stale"]),
        cost_nano_usd=cost,
        marginal_nano_usd=cost,
    )


@pytest.mark.parametrize("by", [["tenant"], ["key", "model"], ["day"], ["tenant", "day"]])
def test_sums_are_those_of_the_rows(database: Database, by: list[Any]) -> None:
    source = random.Random(5)
    rows = [random_row(number, source) for number in range(300)]
    UsageLedger(database).append(rows)
    totals = add_up(database, by)
    assert sum(total.requests for total in totals) == 300
    assert sum(total.unpriced for total in totals) == sum(row.cost_nano_usd is None for row in rows)
    assert sum(total.stale for total in totals) == sum(row.price_state == "stale" for row in rows)
    spent = sum(row.cost_nano_usd or 0 for row in rows)
    assert sum(total.cost_nano_usd or 0 for total in totals) == spent
    assert sum(total.marginal_nano_usd or 0 for total in totals) == spent
    assert sum(total.input_tokens for total in totals) == sum(
        (row.input_tokens or 0) + row.estimated_input_tokens for row in rows
    )


def test_parts_of_calls_are_counted_beside_them(database: Database) -> None:
    """A cascade: the cheap tier answered for a call that the dear one ended."""
    UsageLedger(database).append(
        [
            priced(0, tier="dear", request_id="r"),
            priced(1, tier="cheap", request_id="r", is_part=1, cost_nano_usd=None),
            priced(2, tier="cheap", request_id="s"),
        ]
    )
    cheap, dear = add_up(database, ["tier"])
    assert (cheap.group, cheap.requests, cheap.parts, cheap.unpriced) == (("cheap",), 1, 1, 1)
    assert (dear.group, dear.requests, dear.parts, dear.unpriced) == (("dear",), 1, 0, 0)
    assert cheap.input_tokens == 2 * dear.input_tokens
    used = UsageLedger(database).report(["tier"])
    assert [(total.requests, total.parts) for total in used] == [(1, 1), (1, 0)]


def test_comparisons_are_nobodys_calls(database: Database) -> None:
    UsageLedger(database).append(
        [priced(0, tier="cheap"), priced(1, tier="dear", operation="shadow", tenant="shadow")]
    )
    cheap, dear = add_up(database, ["tier"])
    assert [(cheap.requests, cheap.parts), (dear.requests, dear.parts)] == [(1, 0), (0, 1)]
    assert dear.cost_nano_usd == cheap.cost_nano_usd == 83_400
    (used,) = UsageLedger(database).report([])
    assert (used.requests, used.parts) == (1, 1)


def test_a_call_counts_for_each_of_its_tags(database: Database) -> None:
    UsageLedger(database).append(
        [priced(0), priced(1, tags='["a", "b"]'), priced(2, tags='["b"]', tenant="other")]
    )
    totals = add_up(database, ["tag"])
    assert [(total.group, total.requests, total.cost_nano_usd) for total in totals] == [
        ((None,), 1, 83_400),
        (("a",), 1, 83_400),
        (("b",), 2, 166_800),
    ]
    both = add_up(database, ["tenant", "tag"])
    assert [total.group for total in both] == [
        ("acme", None),
        ("acme", "a"),
        ("acme", "b"),
        ("other", "b"),
    ]


def test_a_span(database: Database) -> None:
    UsageLedger(database).append([priced(number) for number in range(10)])
    (total,) = add_up(database, ["tenant"], NOON_MS + 2, NOON_MS + 5)
    assert total.requests == 3
    assert {line.tokens for line in lines(database, NOON_MS, NOON_MS + 1)} == {2, 8, 4, 1}


@pytest.mark.parametrize("by", ["model", "tag"])
def test_refused_calls_do_not_make_an_unknown_cost_zero(database: Database, by: str) -> None:
    nothing = {"cost_nano_usd": 0, "marginal_nano_usd": 0, "price_state": "none"}
    unknown = {"cost_nano_usd": None, "marginal_nano_usd": None, "price_state": "unpriced"}
    UsageLedger(database).append([priced(0, **nothing), priced(1, **unknown)])
    (total,) = add_up(database, [by])
    assert (total.requests, total.unpriced) == (2, 1)
    assert total.cost_nano_usd is None and total.marginal_nano_usd is None
    free = {"cost_nano_usd": 0, "marginal_nano_usd": 0, "model": "free"}
    UsageLedger(database).append([priced(2, **free), priced(3, **unknown | {"model": "free"})])
    UsageLedger(database).append([priced(4, **nothing, model="refused")])
    found = {total.group: total for total in add_up(database, ["model"])}
    assert found[("free",)].cost_nano_usd == found[("refused",)].cost_nano_usd == 0


def test_an_older_table_gets_its_columns_and_keeps_its_rows(database: Database) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql(OLD_TABLE)
        connection.exec_driver_sql(
            "INSERT INTO usage_rows (row_id, request_id, accepted_at_ms, day, tenant, operation, "
            "usage_source, estimated_input_tokens, output_tokens) "
            "VALUES ('0', 'r', 1, '2026-11-01', 'acme', '/v1', 'measured', 0, 7)"
        )
    database.prepare("usage", [lambda _: None])
    ledger = UsageLedger(database)
    ledger.append([priced(1)])
    with database.reading() as connection:
        old, new = connection.execute(text("SELECT * FROM usage_rows ORDER BY row_id")).mappings()
    assert (old["output_tokens"], old["cost_nano_usd"]) == (7, None)
    assert new["cost_nano_usd"] == 83_400
    (total,) = add_up(database, ["tenant"])
    assert (total.requests, total.unpriced, total.cost_nano_usd) == (2, 1, 83_400)


def test_every_dimension_is_one(database: Database) -> None:
    UsageLedger(database)
    for dimension in COST_DIMENSIONS:
        assert add_up(database, [dimension]) == []


def test_focus_is_exact(database: Database) -> None:
    UsageLedger(database).append([priced(0, key_id="k1", tags='["nightly"]'), priced(1)])
    rows = list(focus_rows(lines(database), "acme-inc"))
    assert len(rows) == 8
    row = next(row for row in rows if row["x_KeyId"] == "k1" and row["x_TokenKind"] == "input")
    assert {name: value for name, value in row.items() if value} == {
        "BilledCost": "0.000006",
        "BillingAccountId": "acme-inc",
        "BillingAccountName": "acme-inc",
        "BillingCurrency": "USD",
        "BillingPeriodEnd": "2026-12-01T00:00:00Z",
        "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "ChargeCategory": "Usage",
        "ChargeDescription": "Input Tokens of claude",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": "2026-11-23T00:00:00Z",
        "ChargePeriodStart": "2026-11-22T00:00:00Z",
        "ConsumedQuantity": "2",
        "ConsumedUnit": "Tokens",
        "ContractedCost": "0.000006",
        "ContractedUnitPrice": "3",
        "EffectiveCost": "0.000006",
        "HostProviderName": "anthropic",
        "InvoiceIssuerName": "anthropic",
        "ListCost": "0.000006",
        "ListUnitPrice": "3",
        "PricingCategory": "Standard",
        "PricingCurrency": "USD",
        "PricingQuantity": "0.000002",
        "PricingUnit": "1000000 Tokens",
        "ResourceId": "claude",
        "ResourceName": "claude",
        "ResourceType": "Model",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "anthropic inference",
        "ServiceProviderName": "anthropic",
        "ServiceSubcategory": "Generative AI",
        "SkuId": "anthropic/claude/input",
        "SkuMeter": "Input Tokens",
        "SkuPriceDetails": '{"x_ModelId": "claude", "x_TokenKind": "input"}',
        "SkuPriceId": "anthropic/claude@2026-09-01/input/3000000000",
        "SubAccountId": "acme",
        "SubAccountName": "acme",
        "Tags": '{"nightly": true}',
        "x_KeyId": "k1",
        "x_PriceId": "anthropic/claude@2026-09-01",
        "x_PriceState": "priced",
        "x_TokenKind": "input",
        "x_UsageSource": "measured",
    }
    assert sum(Decimal(row["EffectiveCost"]) for row in rows) == Decimal("0.0001668")
    for row in rows:
        unit, quantity = Decimal(row["ListUnitPrice"]), Decimal(row["PricingQuantity"])
        assert Decimal(row["ListCost"]) == unit * quantity


def test_focus_tells_routed_and_estimated_tokens_apart(database: Database) -> None:
    cheap = {"tier": "cheap", "task": "write"}
    UsageLedger(database).append(
        [
            priced(0, **cheap, usage_source="reported"),
            priced(1, **cheap, usage_source="estimated"),
            priced(2, tier="premium", task="write", usage_source="reported"),
            priced(3, tier="premium", task="write", usage_source="reported"),
        ]
    )
    found = {
        (row["x_Tier"], row["x_Task"], row["x_UsageSource"]): row["ConsumedQuantity"]
        for row in focus_rows(lines(database), "a")
        if row["x_TokenKind"] == "input"
    }
    assert found == {
        ("cheap", "write", "reported"): "2",
        ("cheap", "write", "estimated"): "2",
        ("premium", "write", "reported"): "4",
    }


def test_focus_bills_nobody_for_an_own_machine(database: Database) -> None:
    UsageLedger(database).append([priced(0, provider="local", model="tiny")])
    for row in focus_rows(lines(database), "acme-inc"):
        assert row["BilledCost"] == "0"
        assert Decimal(row["EffectiveCost"]) > 0


def test_focus_has_the_columns_of_its_version() -> None:
    """Source: FOCUS 1.4, Cost and Usage: no ProviderName and PublisherName, an InvoiceDetailId."""
    mandatory = {
        *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
        *("BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass"),
        *("ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost"),
        *("EffectiveCost", "HostProviderName", "InvoiceDetailId", "InvoiceIssuerName"),
        *("ListCost", "PricingQuantity", "PricingUnit", "ServiceCategory", "ServiceName"),
        "ServiceProviderName",
    }
    assert mandatory <= set(FOCUS_COLUMNS)
    assert not {"ProviderName", "PublisherName"} & set(FOCUS_COLUMNS)
    assert list(FOCUS_COLUMNS) == sorted(FOCUS_COLUMNS)
    assert all(name.startswith("x_") for name in OWN_COLUMNS)


def test_focus_tags_are_json(database: Database) -> None:
    UsageLedger(database).append([priced(0, tags='["a\\"b", "ü"]')])
    row = next(focus_rows(lines(database), "a"))
    assert json.loads(row["Tags"]) == {'a"b': True, "ü": True}
