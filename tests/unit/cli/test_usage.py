"""`headrace usage`: sums of a real ledger as a table, JSON and CSV."""

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

DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_DATABASE", raising=False)
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    return tmp_path


@pytest.fixture
def rows(home: Path) -> None:
    database = open_database(home)
    UsageLedger(database).append(
        [
            make_row(0, tenant="acme", model="m", input_tokens=10, output_tokens=5, queue_s=0.25),
            make_row(1, tenant="acme", model="n", input_tokens=20, cached_input_tokens=8),
            make_row(DAY_MS, tenant="rival", model="m", input_tokens=40, output_tokens=7),
            make_row(
                2 * DAY_MS, tenant="rival", input_tokens=None, output_tokens=None,
                cached_input_tokens=None, estimated_input_tokens=9, error="client_disconnected",
            ),
        ]
    )  # fmt: skip
    database.close()


def usage(*words: str) -> Result:
    arguments = ["usage", *words]
    return CliRunner().invoke(build_app(arguments), arguments)


@pytest.mark.usefixtures("rows")
def test_the_table_shows_what_there_is() -> None:
    lines = usage().stdout.splitlines()
    assert lines[0].split() == [
        *("TENANT", "REQUESTS", "ERRORS", "INPUT", "CACHED", "OUTPUT", "INPUT", "(ESTIMATED)"),
        *("QUEUE", "s"),
    ]
    assert lines[1].split() == ["acme", "2", "0", "30", "8", "5", "0", "0.2"]
    assert lines[2].split() == ["rival", "2", "1", "40", "0", "7", "9", "0.0"]


@pytest.mark.usefixtures("rows")
def test_json_and_csv_say_the_same() -> None:
    found = json.loads(usage("--by", "model", "--by", "day", "--format", "json").stdout)
    read = list(csv.DictReader(io.StringIO(usage("--by", "model", "--by", "day", "--format",
                                                 "csv").stdout)))  # fmt: skip
    assert [{name: str(value or "") for name, value in row.items()} for row in found] == [
        {name: value if float_or(value) else "" for name, value in row.items()} for row in read
    ]
    assert {(row["model"], row["day"]): row["input_tokens"] for row in found} == {
        ("m", "2026-11-22"): 10,
        ("n", "2026-11-22"): 20,
        ("m", "2026-11-23"): 40,
        (None, "2026-11-24"): 0,
    }


def test_keys_are_named_as_their_list_names_them(home: Path) -> None:
    database = open_database(home)
    UsageLedger(database).append([make_row(0, key_id="1f2e"), make_row(1, key_id=None)])
    database.close()
    shown = [row["key"] for row in json.loads(usage("--by", "key", "--format", "json").stdout)]
    assert sorted(map(str, shown)) == ["None", "hr_1f2e"]
    assert "hr_1f2e" in usage("--by", "key").stdout
    assert "hr_1f2e" in usage("--by", "key", "--format", "csv").stdout


def float_or(text: str) -> bool:
    try:
        return float(text) != 0
    except ValueError:
        return bool(text)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("words", "days"),
    [
        ((), ["22", "23", "24"]),
        (("--since", "2026-11-23"), ["23", "24"]),
        (("--until", "2026-11-23"), ["22", "23"]),
        (("--since", "2026-11-23", "--until", "2026-11-23"), ["23"]),
        (("--since", "2030-01-01"), []),
        (("--until", "7d", "--since", "2026-01-01"), None),
    ],
)
def test_a_span_of_days(words: tuple[str, ...], days: list[str] | None) -> None:
    answer = usage("--by", "day", "--format", "json", *words)
    assert answer.exit_code == 0
    if days is not None:
        assert [row["day"][-2:] for row in json.loads(answer.stdout)] == days


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("--by", "colour"), "--by"),
        (("--format", "xml"), "--format"),
        (("--since", "yesterday"), "--since"),
        (("--until", "2026-13-01"), "--until"),
    ],
)
def test_bad_words_are_named(words: tuple[str, ...], field: str) -> None:
    error = usage(*words).exception
    assert isinstance(error, ConfigError)
    assert error.field == field


@pytest.mark.usefixtures("rows")
def test_an_empty_period_says_what_fills_it() -> None:
    said = "There are no calls in this period."
    empty = usage("--since", "2001-01-01", "--until", "2001-01-01")
    assert said in empty.stderr and said not in empty.stdout
    assert said not in usage().stderr


def test_without_a_database_it_says_what_makes_one(home: Path) -> None:
    error = usage().exception
    assert isinstance(error, HeadraceError)
    assert "headrace keys create" in error.message
    assert not (home / "headrace.db").exists()
