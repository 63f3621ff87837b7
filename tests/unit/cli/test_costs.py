"""`headrace costs`: sums and files of a real ledger."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fakes.usage import make_row, open_database
from headrace.cli.app import build_app
from headrace.core.errors import ConfigError, HeadraceError
from headrace.economics.ledger import UsageLedger


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_DATABASE", raising=False)
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def rows(home: Path) -> None:
    database = open_database(home)
    cost = {
        "provider": "openai",
        "model": "gpt",
        "input_tokens": 100,
        "output_tokens": 10,
        "price_state": "priced",
        "price_id": "openai/gpt@always",
        "input_rate": 10**9,
        "output_rate": 2 * 10**9,
        "cost_nano_usd": 120_000,
        "marginal_nano_usd": 120_000,
    }
    UsageLedger(database).append(
        [
            make_row(0, **cost),
            make_row(1, **cost, tenant="other", tags='["a"]'),
            make_row(2, model="free", input_tokens=5, price_state="unpriced"),
        ]
    )
    database.close()


def costs(*words: str) -> Result:
    arguments = ["costs", *words]
    return CliRunner().invoke(build_app(arguments), arguments, catch_exceptions=True)


@pytest.mark.usefixtures("rows")
def test_by_tenant() -> None:
    shown = costs()
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[0] == ["TENANT", "REQUESTS", "UNPRICED", "INPUT", "OUTPUT", "COST", "USD"]
    assert lines[1:] == [["acme", "2", "1", "105", "10", "0.00012"],
                         ["other", "1", "0", "100", "10", "0.00012"]]  # fmt: skip
    assert "1 calls have no price" in shown.stderr


def test_parts_are_shown_where_there_are_some(home: Path) -> None:
    database = open_database(home)
    UsageLedger(database).append([make_row(0, tier="dear"), make_row(1, tier="cheap", is_part=1)])
    database.close()
    shown = costs("--by", "tier")
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert rows[0][:4] == ["TIER", "REQUESTS", "PARTS", "UNPRICED"]
    assert [row[:4] for row in rows[1:]] == [["cheap", "0", "1", "1"], ["dear", "1", "0", "1"]]
    assert "2 calls or parts of calls have no price" in shown.stderr


def test_refused_calls_have_a_column_where_there_are_some(home: Path) -> None:
    database = open_database(home)
    refused = {"error": "invalid_value", "http_status": 400, "price_state": "none"}
    failed_part = make_row(3, task="write", is_part=1, error="stalled")
    rows = [make_row(0, task="write"), make_row(1, **refused), make_row(2, **refused), failed_part]
    UsageLedger(database).append(rows)
    database.close()
    shown = [line.split() for line in costs("--by", "task").stdout.splitlines()]
    assert shown[0][:4] == ["TASK", "REQUESTS", "ERRORS", "PARTS"]
    assert [row[:4] for row in shown[1:]] == [["-", "2", "2", "0"], ["write", "1", "0", "1"]]
    tagged = json.loads(costs("--by", "tag", "--format", "json").stdout)
    assert [(row["requests"], row["errors"]) for row in tagged] == [(3, 2)]


def test_keys_are_named_as_their_list_names_them(home: Path) -> None:
    database = open_database(home)
    UsageLedger(database).append([make_row(0, key_id="1f2e")])
    database.close()
    assert "hr_1f2e" in costs("--by", "key").stdout


@pytest.mark.usefixtures("rows")
def test_json_and_csv_are_exact() -> None:
    rows = json.loads(costs("--by", "model", "--by", "tag", "--format", "json").stdout)
    assert [(row["model"], row["tag"], row["cost_usd"]) for row in rows] == [
        ("free", None, None),
        ("gpt", None, "0.00012"),
        ("gpt", "a", "0.00012"),
    ]
    table = list(csv.DictReader(io.StringIO(costs("--by", "day", "--format", "csv").stdout)))
    assert table[0]["cost_nano_usd"] == "240000"


@pytest.mark.usefixtures("rows")
def test_what_has_no_price_has_no_cost_and_not_0() -> None:
    free, _ = json.loads(costs("--by", "model", "--format", "json").stdout)
    assert (free["cost_nano_usd"], free["marginal_nano_usd"], free["cost_usd"]) == (None,) * 3
    free, _ = csv.DictReader(io.StringIO(costs("--by", "model", "--format", "csv").stdout))
    assert (free["model"], free["cost_nano_usd"], free["marginal_nano_usd"]) == ("free", "", "")
    lines = [line.split() for line in costs("--by", "model").stdout.splitlines()]
    assert lines[1:] == [["free", "1", "1", "5", "0"], ["gpt", "2", "0", "200", "20", "0.00024"]]


def test_a_price_of_0_costs_0(home: Path) -> None:
    database = open_database(home)
    row = make_row(0, price_state="priced", cost_nano_usd=0, marginal_nano_usd=0)
    UsageLedger(database).append([row])
    database.close()
    (total,) = json.loads(costs("--format", "json").stdout)
    assert (total["cost_nano_usd"], total["cost_usd"]) == (0, "0.00")


@pytest.mark.usefixtures("rows")
def test_focus() -> None:
    shown = costs("--format", "focus", "--account", "acme-inc")
    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    assert [row["EffectiveCost"] for row in rows] == ["0.0001", "0.00002"] * 2
    assert {row["BillingAccountId"] for row in rows} == {"acme-inc"}


@pytest.mark.usefixtures("rows")
def test_days() -> None:
    assert costs("--until", "2026-11-21", "--format", "json").stdout == "[]\n"
    assert len(json.loads(costs("--since", "2026-11-22", "--format", "json").stdout)) == 2
    backwards = costs("--since", "2026-11-22", "--until", "2026-11-21").exception
    assert isinstance(backwards, ConfigError) and backwards.field == "--until"


def test_wrong_words_and_no_ledger() -> None:
    assert isinstance(costs("--by", "colour").exception, ConfigError)
    assert isinstance(costs("--format", "xml").exception, ConfigError)
    failed = costs()
    assert isinstance(failed.exception, HeadraceError)
    assert "There are no costs yet" in str(failed.exception)
