"""Following the database of keys while a server runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fakes.usage import eventually, make_row
from headrace.core.backend import ModelInfo
from headrace.core.budgets import Budget
from headrace.core.clock import SystemClock
from headrace.core.config import Config, EconomicsConfig, HubConfig, ServerConfig, StoreConfig
from headrace.core.errors import BudgetExceeded, ConfigError, StoreError
from headrace.core.stores import NO_LIMITS
from headrace.core.telemetry import NoMetrics
from headrace.economics.budgets import Spender
from headrace.launch.accounts import AccountsWatch
from headrace.store.budgets import BudgetStore
from headrace.store.database import Database, default_url
from headrace.store.keys import KeyStore

START = """
import sys
from pathlib import Path
from headrace.core.config import Config, HubConfig
from headrace.launch.accounts import AccountsWatch
import headrace.launch.serve

watch = AccountsWatch(Config(hub=HubConfig(home=Path(sys.argv[1]))))
assert watch.open().keys.is_open
assert not {"sqlalchemy", "headrace.store"} & set(sys.modules)
"""


def config_of(home: Path, **server: bool) -> Config:
    return Config(hub=HubConfig(home=home), server=ServerConfig(**server))


@contextmanager
def keys_in(home: Path) -> Iterator[KeyStore]:
    database = Database(default_url(home))
    database.create_file()
    yield KeyStore(database, SystemClock())
    database.close()


@contextmanager
def watching(config: Config) -> Iterator[AccountsWatch]:
    watch = AccountsWatch(config, poll_s=0.01)
    watch.open()
    watch.start(NoMetrics())
    try:
        yield watch
    finally:
        watch.close()


@contextmanager
def budgets_in(home: Path) -> Iterator[BudgetStore]:
    database = Database(default_url(home))
    database.create_file()
    yield BudgetStore(database, SystemClock())
    database.close()


MONEY = Budget(scope="tenant", name="acme", period="total", stop_nano_usd=100)


def test_budgets_outlive_the_server_with_what_was_spent(tmp_path: Path) -> None:
    """Without a key too: a budget alone opens the ledger."""
    today = datetime.now(UTC).date()
    with budgets_in(tmp_path) as store:
        store.set(MONEY)
    with watching(config_of(tmp_path)) as watch:
        budgets, ledger = watch.accounts.budgets, watch.accounts.ledger
        assert budgets is not None
        assert ledger is not None
        row = make_row(0, cost_nano_usd=70)
        budgets.settle([], row)
        ledger.append(row)
        assert budgets.spent(MONEY.id, today) == 70
    with watching(config_of(tmp_path)) as watch:
        assert watch.accounts.budgets is not None
        assert watch.accounts.budgets.spent(MONEY.id, today) == 70


def test_a_budget_that_is_set_while_the_server_runs(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    spender = Spender("acme", None, "m", (), today)
    with watching(config_of(tmp_path)) as watch, budgets_in(tmp_path) as store:
        store.set(MONEY)
        eventually(lambda: watch.accounts.budgets is not None)
        budgets = watch.accounts.budgets
        assert budgets is not None
        eventually(lambda: budgets.limits(spender))
        with pytest.raises(BudgetExceeded):
            budgets.reserve(spender, 101)
        store.remove(MONEY.id)
        eventually(lambda: not budgets.limits(spender))


def test_a_budget_needs_the_ledger(tmp_path: Path) -> None:
    with budgets_in(tmp_path) as store:
        store.set(MONEY)
    config = Config(hub=HubConfig(home=tmp_path), store=StoreConfig(ledger="off"))
    watch = AccountsWatch(config)
    with pytest.raises(ConfigError, match=r"store\.ledger is 'off'"):
        watch.open()
    watch.close()


def test_a_server_without_keys_pays_nothing_for_them(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", START, str(tmp_path)], check=True)


def test_keys_made_and_revoked_while_it_runs(tmp_path: Path) -> None:
    with watching(config_of(tmp_path)) as watch:
        accounts = watch.accounts
        assert accounts.keys.is_open
        with keys_in(tmp_path) as store:
            _, secret = store.create("a", None, ["inference"], NO_LIMITS)
            eventually(lambda: not accounts.keys.is_open)
            assert accounts.keys.find(secret) is not None
            store.revoke("a")
            eventually(lambda: accounts.keys.find(secret) is None)
        assert not accounts.keys.is_open


def test_a_server_says_that_its_last_key_has_expired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with watching(config_of(tmp_path)) as watch, keys_in(tmp_path) as store:
        until_s = SystemClock().unix_s() + 0.5
        _, secret = store.create("a", None, ["inference"], NO_LIMITS, expires_at_s=until_s)
        eventually(lambda: not watch.accounts.keys.is_open)
        eventually(lambda: watch.accounts.keys.find(secret) is None)
        eventually(lambda: "Every API key is revoked or has expired" in caplog.text)


def test_a_server_says_that_every_key_is_revoked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warning = "Every API key is revoked"
    with watching(config_of(tmp_path)) as watch, keys_in(tmp_path) as store:
        for name in ("a", "b"):
            store.create(name, None, ["inference"], NO_LIMITS)
        eventually(lambda: not watch.accounts.keys.is_open)
        store.revoke("a")
        store.revoke("b")
        eventually(lambda: watch.accounts.keys.are_all_ended)
        eventually(lambda: warning in caplog.text)
        store.create("c", None, ["inference"], NO_LIMITS)
        eventually(lambda: not watch.accounts.keys.are_all_ended)
        store.revoke("c")
        eventually(lambda: caplog.text.count(warning) == 2)
    caplog.clear()
    later = AccountsWatch(config_of(tmp_path))
    assert not later.open().keys.is_open
    later.close()
    assert warning in caplog.text


def test_keys_are_read_before_the_first_request(tmp_path: Path) -> None:
    with keys_in(tmp_path) as store:
        _, secret = store.create("a", None, ["inference"], NO_LIMITS)
    watch = AccountsWatch(config_of(tmp_path, require_key=True))
    assert watch.open().keys.find(secret) is not None
    watch.close()


def test_keys_that_cannot_be_read_do_not_leave_a_server_open(tmp_path: Path) -> None:
    (tmp_path / "headrace.db").write_bytes(b"no database" * 1000)
    watch = AccountsWatch(config_of(tmp_path))
    with pytest.raises(StoreError):
        watch.open()
    watch.close()


def test_keys_stay_as_they_were_while_the_database_is_gone(tmp_path: Path) -> None:
    with keys_in(tmp_path) as store:
        _, secret = store.create("a", None, ["inference"], NO_LIMITS)
    with watching(config_of(tmp_path)) as watch:
        (tmp_path / "headrace.db").rename(tmp_path / "away.db")
        eventually(lambda: watch._is_failing)
        assert watch.accounts.keys.find(secret) is not None
        (tmp_path / "away.db").rename(tmp_path / "headrace.db")
        with keys_in(tmp_path) as store:
            store.revoke("a")
        eventually(lambda: watch.accounts.keys.find(secret) is None)


def test_a_key_can_be_demanded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="headrace keys create"):
        AccountsWatch(config_of(tmp_path, require_key=True)).open()


def test_a_file_of_prices_that_is_missing_is_told_before_anything_starts(tmp_path: Path) -> None:
    prices = EconomicsConfig(price_files=(str(tmp_path / "none.yaml"),))
    config = replace(config_of(tmp_path), economics=prices)
    with keys_in(tmp_path):
        watch = AccountsWatch(config)
        with pytest.raises(ConfigError, match=r"none\.yaml"):
            watch.open()
        watch.close()


def test_a_named_database_without_keys_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def opened(folder: str) -> str:
        url = f"sqlite:///{tmp_path}/{folder}/keys.db"
        watch = AccountsWatch(replace(config_of(tmp_path), store=StoreConfig(database_url=url)))
        caplog.clear()
        watch.open()
        watch.close()
        return caplog.text

    (tmp_path / "known").mkdir()
    database = Database(f"sqlite:///{tmp_path}/known/keys.db")
    database.create_file()
    KeyStore(database, SystemClock()).create("a", "a", ["inference"], NO_LIMITS)
    database.close()
    assert opened("known") == ""
    (tmp_path / "new").mkdir()
    told = opened("new")
    assert "has no API keys" in told
    assert f"There was no database at {tmp_path}/new/keys.db: a new one is made" in told
    with pytest.raises(ConfigError, match=r"mistyped does not exist: create it, or check --databa"):
        opened("mistyped")
    assert not (tmp_path / "mistyped").exists()


def test_models_here_that_a_stop_refuses_are_told_with_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An adapter costs what the model beneath it does; another model with a price is no help."""
    prices = tmp_path / "prices.yaml"
    prices.write_text("prices: [{provider: local, model: paid, input_per_1m: 1, output_per_1m: 2}]")
    config = replace(config_of(tmp_path), economics=EconomicsConfig(price_files=(str(prices),)))
    with budgets_in(tmp_path) as store:
        store.set(replace(MONEY, scope="all", name=""))
        store.set(replace(MONEY, scope="model", name="sql"))
    watch = AccountsWatch(config)
    watch.open()
    paid, free = (ModelInfo(name, 100, 0, name) for name in ("paid", "free"))
    watch.warn_of_unpriced([paid, replace(paid, name="sql", parent="paid")])
    assert "no price" not in caplog.text
    watch.warn_of_unpriced([paid, free, replace(free, name="sql", parent="free")])
    watch.close()
    assert "budget all:total: free, sql: no price" in caplog.text
    assert "budget model:sql:total: sql: no price" in caplog.text
