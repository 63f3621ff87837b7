"""`headrace prices`: what is shown is what would be charged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fakes.usage import make_row, open_database
from headrace.cli.app import build_app
from headrace.core.errors import ConfigError, HeadraceError
from headrace.economics.ledger import UsageLedger
from headrace.economics.price_files import read_price_file

MACHINE = """
machines:
  - {models: tiny, usd_per_hour: 0.36, input_tokens_per_s: 1000, output_tokens_per_s: 40,
     utilization: 0.25, measured_on: 2026-11-20}
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    monkeypatch.delenv("HEADRACE_DATABASE", raising=False)
    return tmp_path


def prices(*words: str) -> Result:
    arguments = ["prices", *words]
    return CliRunner().invoke(build_app(arguments), arguments, catch_exceptions=True)


def test_list_of_a_provider() -> None:
    listed = prices("list", "--provider", "openai", "--day", "2026-11-22", "--json")
    assert listed.exit_code == 0, listed.output
    rows = {row["model"]: row for row in json.loads(listed.stdout)}
    assert rows["gpt-4o"]["nano_usd_per_mtok"]["cached_input"] == 1_250_000_000
    assert rows["gpt-4o"]["batch_nano_usd_per_mtok"]["output"] == 5_000_000_000
    table = prices("list", "--provider", "openai", "--day", "2026-11-22").stdout
    assert "gpt-4o " in table
    assert "anthropic" not in table


def test_a_provider_without_a_price_is_refused_with_those_that_have_one() -> None:
    failed = prices("list", "--provider", "nope")
    assert isinstance(failed.exception, ConfigError)
    assert "--provider is 'nope'; allowed: a provider with a price: " in str(failed.exception)
    assert "anthropic, " in str(failed.exception)


def test_show_says_where_a_price_is_from() -> None:
    shown = prices("show", "claude-sonnet-4-5-20250929", "--day", "2026-11-22").stdout
    assert "anthropic/claude-sonnet-4-5" in shown
    assert "prompts above 200000 tokens: input 6.00" in shown
    assert "source: https://www.anthropic.com/pricing#api" in shown


def test_a_model_without_a_price_is_unpriced() -> None:
    failed = prices("show", "nobody-1")
    assert isinstance(failed.exception, HeadraceError)
    assert "nobody-1 is unpriced" in str(failed.exception)


def test_an_own_model_shows_both_costs(home: Path) -> None:
    file = home / "own.yaml"
    file.write_text(MACHINE)
    config = home / "config.yaml"
    config.write_text(f"economics:\n  price_files: [{file}]\n")
    shown = prices("show", "tiny", "--config", str(config), "--day", "2026-11-22").stdout
    assert "USD per million tokens: input 0.40, cached input 0.00, output 10.00" in shown
    assert "marginal, without idle time: input 0.10, cached input 0.00, output 2.50" in shown
    assert "at work 25.00% of the time" in shown


def test_of_several_dates_the_one_that_is_charged_is_shown(home: Path) -> None:
    """An entry without an end does not hide the one that followed it."""
    file = home / "own.yaml"
    file.write_text(
        "prices:\n"
        "  - {provider: x, model: m, input_per_1m: 1}\n"
        "  - {provider: x, model: m, input_per_1m: 3, effective_from: 2026-06-01}\n"
        "  - {provider: x, model: m, input_per_1m: 2, effective_from: 2026-03-01}\n"
    )
    config = home / "config.yaml"
    config.write_text(f"economics:\n  price_files: [{file}]\n")
    common = ("--config", str(config), "--json", "--day")
    for day, usd in (("2026-02-28", 1), ("2026-03-01", 2), ("2026-11-22", 3)):
        (listed,) = json.loads(prices("list", "--provider", "x", *common, day).stdout)
        (shown,) = json.loads(prices("show", "m", *common, day).stdout)
        assert listed == shown
        assert listed["nano_usd_per_mtok"]["input"] == usd * 10**9
    checked = prices("check", str(file), "--day", "2026-11-22").stdout
    assert checked == "x/m: unpriced -> input 3.00\n"


def test_check_shows_what_a_file_would_change(home: Path) -> None:
    file = home / "new.json"
    tree = {
        "gpt-4o": {
            "litellm_provider": "openai",
            "input_cost_per_token": 1e-06,
            "output_cost_per_token": 1e-05,
        },
        "new-1": {"litellm_provider": "openai", "input_cost_per_token": 1e-06},
    }
    file.write_text(json.dumps(tree))
    checked = prices("check", str(file), "--day", "2026-11-22")
    assert checked.exit_code == 0, checked.output
    assert checked.stdout == (
        "openai/gpt-4o: input 2.50, cached input 1.25, output 10.00; "
        "in batches input 1.25, cached input 1.25, output 5.00 -> input 1.00, output 10.00\n"
        "openai/new-1: unpriced -> input 1.00\n"
    )
    assert checked.stderr == (
        f"{file}: 2 prices, 2 in force on 2026-11-22\n"
        "If it is named first in economics.price_files: 1 new, 1 changed, 0 as before.\n"
    )


def test_check_of_what_changes_nothing_says_so(home: Path) -> None:
    file, config = home / "own.yaml", home / "config.yaml"
    config.write_text(f"economics:\n  price_files: [{file}]\n")
    one = "prices:\n  - {provider: x, model: m, input_per_1m: 1, effective_until: 2026-06-01}\n"
    for text, day, said in (
        (one, "2026-05-31", "1 price, 1 in force on 2026-05-31"),
        (one, "2026-06-01", "1 price, none in force on 2026-06-01"),
        ("prices: []\n", "2026-06-01", "no prices"),
    ):
        file.write_text(text)
        checked = prices("check", str(file), "--config", str(config), "--day", day)
        assert checked.stdout == ""
        assert checked.stderr == f"{file}: {said}\nIt would change nothing.\n"


def test_check_shows_prices_of_batches_and_of_long_prompts(home: Path) -> None:
    """All that differs is seen: else a change looks like none."""
    file, config = home / "own.yaml", home / "config.yaml"
    config.write_text(f"economics:\n  price_files: [{file}]\n")
    start = "prices:\n  - {provider: x, model: m, input_per_1m: 2"
    file.write_text(f"{start}}}\n")
    other = home / "other.yaml"
    other.write_text(
        f"{start}, batch_factor: 0.5, above: [{{input_tokens: 1000, input_per_1m: 3}}]}}\n"
    )
    checked = prices("check", str(other), "--config", str(config), "--day", "2026-11-22")
    assert checked.stdout == (
        "x/m: input 2.00 -> input 2.00; above 1000 tokens input 3.00; "
        "in batches input 1.00; in batches above 1000 tokens input 1.50\n"
    )


def test_an_own_machine_is_measured_from_the_ledger(home: Path) -> None:
    """Two calls at once for 10 s, at noon of a day; what is printed is a price file."""
    database = open_database(home)
    row = {
        "model": "tiny",
        "input_tokens": 500,
        "cached_input_tokens": 100,
        "output_tokens": 80,
        "queue_s": 0.0,
        "prefill_s": 2.0,
        "decode_s": 8.0,
    }
    UsageLedger(database).append(
        [
            make_row(0, **row),
            make_row(0, **row),
            make_row(1, model="tiny"),
            make_row(2, **row | {"model": "other"}),
        ]
    )
    database.close()
    day = ("--since", "2026-11-22", "--until", "2026-11-22")
    measured = prices("measure", "tiny", "--usd-per-hour", "0.36", *day)
    assert measured.exit_code == 0, measured.output
    since = "since the first call at 2026-11-22 12:00:00 UTC"
    assert f"2 calls, 10 s of work in 43200 s: {since}" in measured.stderr
    assert "warning: the machine worked 0.02% of that time" in measured.stderr
    assert "4,320 times that of the work alone" in measured.stderr
    file = home / "own.yaml"
    file.write_text(measured.stdout)
    (price,) = read_price_file(file).prices
    machine = price.machine
    assert machine is not None
    assert (machine.input_tokens_per_s, machine.output_tokens_per_s) == (400, 20)
    assert (machine.concurrency, machine.nano_usd_per_hour) == (2, 360_000_000)
    assert price.model == "tiny"
    assert isinstance(prices("measure", "c", "--usd-per-hour", "1").exception, HeadraceError)
    assert isinstance(prices("measure", "tiny", "--usd-per-hour", "x").exception, ConfigError)


def test_days_before_the_first_call_are_no_idle_time(home: Path) -> None:
    """A server that is new since noon of the 22nd works half of the time from then on."""
    database = open_database(home)
    UsageLedger(database).append(
        [
            make_row(
                model="tiny",
                input_tokens=500,
                cached_input_tokens=0,
                output_tokens=80,
                queue_s=0.0,
                prefill_s=600.0,
                decode_s=21_000.0,
            )
        ]
    )
    database.close()
    days = ("--since", "2026-11-15", "--until", "2026-11-22")
    measured = prices("measure", "tiny", "--usd-per-hour", "0.36", *days)
    assert "utilization: 0.5000" in measured.stdout
    assert "warning" not in measured.stderr


def test_calls_without_an_answer_give_no_price_and_say_why(home: Path) -> None:
    """An encoder's."""
    database = open_database(home)
    times = {"queue_s": 0.0, "prefill_s": 2.0, "decode_s": 0.0}
    tokens = {"input_tokens": 500, "output_tokens": 0}
    UsageLedger(database).append([make_row(model="mini", **times, **tokens)])
    database.close()
    failed = prices("measure", "mini", "--usd-per-hour", "1").exception
    assert isinstance(failed, HeadraceError)
    assert "The 1 call of mini in that time computed no prompt, or no answer" in failed.message
    assert "Encoders have no answers" in failed.message


def test_bad_words(home: Path) -> None:
    assert isinstance(prices("list", "--day", "soon").exception, ConfigError)
    assert isinstance(prices("check", str(home / "no.yaml")).exception, ConfigError)
