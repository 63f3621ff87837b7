"""`headrace budgets`: set, seen with what is spent, removed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fakes.usage import NOON_MS, make_row, open_database
from headrace.cli.app import build_app
from headrace.core.errors import ConfigError
from headrace.economics.ledger import UsageLedger


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_DATABASE", raising=False)
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(build_app(words), list(words), catch_exceptions=True)


def listed() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(run("budgets", "list", "--json").stdout)
    return rows


def test_from_its_setting_to_its_end(home: Path) -> None:
    made = run("budgets", "set", "--tenant", "acme", "--period", "total", "--stop", "10.000000001")
    assert made.exit_code == 0, made.output
    assert "a warning above 8.00 USD, no more than 10.000000001 USD" in made.stdout
    database = open_database(home)
    now = int(time.time() * 1000)
    UsageLedger(database).append([make_row(now - NOON_MS, cost_nano_usd=123)])
    database.close()
    assert listed() == [
        {
            "id": "tenant:acme:total",
            "scope": "tenant",
            "name": "acme",
            "period": "total",
            "stop_nano_usd": 10_000_000_001,
            "warn_nano_usd": 8_000_000_000,
            "spent_nano_usd": 123,
            "ends": None,
        }
    ]
    assert "9.999999878" in run("budgets", "list").stdout
    changed = run("budgets", "set", "--tenant", "acme", "--period", "total", "--warn", "1")
    assert changed.exit_code == 0
    (row,) = listed()
    assert (row["stop_nano_usd"], row["warn_nano_usd"]) == (None, 10**9)
    assert run("budgets", "remove", "tenant:acme:total").exit_code == 0
    assert listed() == []


def test_a_new_stop_keeps_the_share_of_the_warning() -> None:
    run("budgets", "set", "--stop", "10", "--warn", "5")
    changed = run("budgets", "set", "--stop", "20")
    assert changed.stdout == (
        "budget all:month: a warning above 10.00 USD, no more than 20.00 USD "
        "(before: a warning above 5.00 USD, no more than 10.00 USD)\n"
    )
    (row,) = listed()
    assert (row["stop_nano_usd"], row["warn_nano_usd"]) == (20 * 10**9, 10 * 10**9)


def test_a_warning_without_a_stop_is_kept_when_one_is_added() -> None:
    assert run("budgets", "set", "--warn", "3").stdout.endswith("above 3.00 USD, no stop\n")
    run("budgets", "set", "--stop", "20")
    (row,) = listed()
    assert (row["stop_nano_usd"], row["warn_nano_usd"]) == (20 * 10**9, 3 * 10**9)


def test_a_key_is_found_by_its_name() -> None:
    assert isinstance(run("budgets", "set", "--key", "ci", "--stop", "1").exception, ConfigError)
    secret = run("keys", "create", "ci").stdout.strip()
    assert run("budgets", "set", "--key", "ci", "--stop", "1").exit_code == 0
    (row,) = listed()
    assert secret.startswith(f"hr_{row['name']}_")


@pytest.mark.parametrize(
    "words",
    [
        ("--stop", "much"),
        ("--stop", "-1"),
        ("--stop", "nan"),
        ("--stop", "1", "--warn", "2"),
        ("--stop", "1", "--period", "year"),
        ("--tenant", "a", "--tag", "b", "--stop", "1"),
        ("--tenant", "", "--stop", "1"),
        ("--tag", " ", "--stop", "1"),
        (),
    ],
)
def test_wrong_words(words: tuple[str, ...]) -> None:
    assert isinstance(run("budgets", "set", *words).exception, ConfigError)


def test_two_owners_are_refused_by_name() -> None:
    refused = run("budgets", "set", "--tenant", "a", "--key", "b", "--stop", "1")
    assert "--key is 'b'; allowed: nothing beside --tenant." in str(refused.exception)


def test_looking_makes_no_database(home: Path) -> None:
    assert listed() == []
    assert isinstance(run("budgets", "remove", "all:day").exception, ConfigError)
    assert not (home / "headrace.db").exists()


def price_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A price of the model that is served where nothing else is said."""
    (home / "prices.yaml").write_text(
        "prices: [{provider: local, model: 'qwen2.5-coder:0.5b', input_per_1m: 0.01, "
        "output_per_1m: 0.02}]\n"
    )
    (home / "priced.yaml").write_text(f"economics: {{price_files: ['{home}/prices.yaml']}}\n")
    monkeypatch.setenv("HEADRACE_CONFIG", str(home / "priced.yaml"))


def test_an_owner_that_nobody_knows_is_warned_of_and_set(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come later: a key of the tenant, a call of the model."""
    assert run("keys", "create", "ci", "--tenant", "acme").exit_code == 0
    database = open_database(home)
    UsageLedger(database).append([make_row(tenant="globex", model="gpt-5")])
    database.close()
    price = "price: {input_per_1m: 1, output_per_1m: 2}"
    (home / "settings.yaml").write_text(
        "engine: {adapters: [sql=/a]}\n"
        f"economics: {{price_files: ['{home}/prices.yaml']}}\n"
        "upstreams: {far: {url: 'http://h/v1'}}\n"
        f"tiers: {{one: {{backends: [{{upstream: far, model: far-model, {price}}}]}}}}\n"
    )
    config = ("--config", str(home / "settings.yaml"))
    price_model(home, monkeypatch)
    known = (
        ("--tenant", "acme"),
        ("--tenant", "globex"),
        ("--model", "gpt-5"),
        ("--model", "qwen2.5-coder:0.5b"),
        ("--model", "sql", *config),
        ("--model", "far-model", *config),
        ("--tag", "anything"),
        (),
    )
    for words in known:
        done = run("budgets", "set", *words, "--stop", "1")
        assert (done.exit_code, done.stderr) == (0, ""), (words, done.stderr, done.exception)
    for words, said in (
        (("--tenant", "acmee"), "no key and no call in the ledger has this tenant; it counts"),
        (("--model", "gpt-55"), "no model here, in the settings or in the ledger has this name"),
    ):
        done = run("budgets", "set", *words, "--stop", "1")
        assert done.exit_code == 0
        assert done.stderr.startswith(f"warning: {words[0]} is {words[1]!r}: {said}")
        assert f"Did you mean {words[1][:-1]}?" in done.stderr
    ids = {row["id"] for row in listed()}
    assert {"tenant:acmee:month", "model:gpt-55:month"} <= ids


def test_a_call_that_was_refused_makes_no_model_known(home: Path) -> None:
    """Its row has what was asked for: `auto`, under which nothing is ever counted."""
    database = open_database(home)
    refused = {"error": "invalid_value", "http_status": 400, "usage_source": "none"}
    rows = [make_row(0, model="auto", **refused), make_row(1, model=None, **refused)]
    UsageLedger(database).append([*rows, make_row(2, model="gpt-5")])
    database.close()
    for name, is_known in (("auto", False), ("None", False), ("gpt-5", True)):
        done = run("budgets", "set", "--model", name, "--stop", "1")
        assert done.exit_code == 0
        assert (done.stderr == "") == is_known, done.stderr


def test_a_budget_is_set_where_no_models_can_be(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a database elsewhere: who is warned of a name has asked for no model."""
    (home / "file").touch()
    monkeypatch.setenv("HEADRACE_HOME", str(home / "file"))
    monkeypatch.setenv("HEADRACE_DATABASE", f"sqlite:///{home}/budgets.db")
    done = run("budgets", "set", "--model", "gpt-5", "--stop", "1")
    assert (done.exit_code, [row["id"] for row in listed()]) == (0, ["model:gpt-5:month"])


def test_a_stop_that_would_refuse_every_call_is_warned_of(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing could keep it for a model without a price: its calls would all be 429."""
    said = "warning: qwen2.5-coder:0.5b: no price, so the stop refuses every call of it (429)."
    for words in ((), ("--tag", "nightly"), ("--model", "qwen2.5-coder:0.5b")):
        done = run("budgets", "set", *words, "--stop", "1")
        assert done.exit_code == 0
        assert done.stderr.startswith(said), (words, done.stderr)
        assert "economics.price_files" in done.stderr
    assert len(listed()) == 3
    # A budget that only warns refuses nothing.
    assert run("budgets", "set", "--warn", "1").stderr == ""
    price_model(home, monkeypatch)
    for words in ((), ("--tag", "nightly"), ("--model", "qwen2.5-coder:0.5b")):
        assert run("budgets", "set", *words, "--stop", "1").stderr == "", words


def test_backends_of_tiers_without_a_price_are_warned_of(home: Path) -> None:
    """Those alone: one is in the tiers with its price, one is built in under its provider."""
    (home / "tiers.yaml").write_text(
        "upstreams:\n"
        "  far: {url: 'http://h/v1'}\n"
        "  api: {url: 'http://h/v1', provider: openai}\n"
        "tiers:\n"
        "  one: {backends: [small, {upstream: far, model: big}]}\n"
        "  two:\n"
        "    backends:\n"
        "      - {upstream: api, model: gpt-5}\n"
        "      - {upstream: far, model: paid, price: {input_per_1m: 1, output_per_1m: 2}}\n"
    )
    done = run("budgets", "set", "--stop", "1", "--config", str(home / "tiers.yaml"))
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: small, big: no price, so the stop refuses every call")


def test_an_adapter_has_a_price_of_its_own_or_its_models(home: Path) -> None:
    """Neither models elsewhere nor a model without a price beneath it take its own away."""
    tiers = (
        "upstreams: {far: {url: 'http://h/v1'}}\n"
        "tiers: {one: {backends: [small, {upstream: far, model: big}]}}\n"
    )
    for priced, is_paid in (("sql", True), ("small", True), ("big", False)):
        (home / "prices.yaml").write_text(
            f"prices: [{{provider: local, model: {priced}, input_per_1m: 1, output_per_1m: 2}}]\n"
        )
        (home / "c.yaml").write_text(
            f"{tiers}engine: {{adapters: [sql=/a]}}\n"
            f"economics: {{price_files: ['{home}/prices.yaml']}}\n"
        )
        config = ("--config", str(home / "c.yaml"))
        done = run("budgets", "set", "--model", "sql", "--stop", "1", *config)
        assert done.exit_code == 0
        assert (done.stderr == "") == is_paid, (priced, done.stderr)
    assert done.stderr.startswith("warning: sql: no price, so the stop refuses every call of it")


def test_money_goes_by_a_models_own_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by one that it is served under, which prices and the ledger do not have."""
    price_model(home, monkeypatch)
    with (home / "priced.yaml").open("a") as settings:
        settings.write("server: {served_model_names: [assistant]}\n")
    assert run("budgets", "set", "--stop", "1").stderr == ""
    done = run("budgets", "set", "--model", "assistant", "--stop", "1")
    assert done.stderr.startswith("warning: --model is 'assistant': no model here")


def test_prices_that_cannot_be_read_do_not_fail_the_budget(home: Path) -> None:
    (home / "c.yaml").write_text("economics: {price_files: [/not/there.yaml]}\n")
    done = run("budgets", "set", "--stop", "1", "--config", str(home / "c.yaml"))
    assert (done.exit_code, len(listed())) == (0, 1)
    assert done.stderr.startswith("warning: price file is '/not/there.yaml'; allowed: a readable")


def test_a_budget_of_a_key_is_removed_by_the_name_it_was_set_with() -> None:
    assert run("keys", "create", "robot").exit_code == 0
    for _ in range(2):
        made = run("budgets", "set", "--key", "robot", "--stop", "10")
        assert made.exit_code == 0, made.output
        (row,) = listed()
        assert row["name"] != "robot"
        removed = run("budgets", "remove", "key:robot:month")
        assert removed.stdout == f"budget {row['id']} is removed\n"
        assert listed() == []
    again = run("budgets", "remove", "key:robot:month")
    assert isinstance(again.exception, ConfigError)
    assert again.exception.allowed == "the id of a budget: there is none"
