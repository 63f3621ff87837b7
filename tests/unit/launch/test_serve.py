"""What `serve` refuses before it starts an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.config.routing import make_routing
from headrace.core.budgets import Budget
from headrace.core.clock import SystemClock
from headrace.core.config import Config, HubConfig, ServerConfig
from headrace.core.errors import ConfigError
from headrace.launch.serve import build
from headrace.store.budgets import BudgetStore
from headrace.store.database import Database, default_url

TIERS = {
    "upstreams": {"far": {"url": "http://127.0.0.1:9/v1"}},
    "tiers": {"cheap": {"backends": [{"model": "m", "upstream": "far"}]}},
}


@pytest.mark.parametrize("models", [[], ["a-model-that-nobody-has"]])
def test_served_names_beside_tiers(tmp_path: Path, models: list[str]) -> None:
    """Tiers have names of their own; a second kind of name would hide one of them."""
    config = Config(
        hub=HubConfig(home=tmp_path),
        server=ServerConfig(served_model_names=("one", "two")),
        routing=make_routing(TIERS),
    )
    with pytest.raises(ConfigError) as refused:
        build(config, models)
    error = refused.value
    assert (error.field, error.value) == ("server.served_model_names", "one, two")
    assert "none where there are tiers" in error.message


def test_stops_that_refuse_every_call_are_told_when_a_server_starts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for all budgets of which it is true; not of one for a model that is not served."""
    database = Database(default_url(tmp_path))
    database.create_file()
    budgets = BudgetStore(database, SystemClock())
    for tenant in ("acme", "other"):
        budgets.set(Budget(scope="tenant", name=tenant, period="month", stop_nano_usd=1))
    budgets.set(Budget(scope="all", name="", period="day", warn_nano_usd=1))
    budgets.set(Budget(scope="model", name="elsewhere", period="day", stop_nano_usd=1))
    database.close()
    build(Config(hub=HubConfig(home=tmp_path), routing=make_routing(TIERS)), [])
    said = [record.message for record in caplog.records if "no price" in record.message]
    assert said == [
        "budget tenant:acme:month, tenant:other:month: m: no price, so the stop refuses every call "
        "of it (429). Add a price to a file of economics.price_files, or to its tier's backend, or "
        "set no --stop."
    ]
    caplog.clear()
    priced = {"model": "m", "upstream": "far", "price": {"input_per_1m": 1, "output_per_1m": 2}}
    tiers = TIERS | {"tiers": {"cheap": {"backends": [priced]}}}
    build(Config(hub=HubConfig(home=tmp_path), routing=make_routing(tiers)), [])
    assert "no price" not in caplog.text


def test_a_wrong_price_of_a_tier_is_told_where_nobody_is_charged(tmp_path: Path) -> None:
    wrong = {"model": "m", "upstream": "far", "price": {"input": 5}}
    tiers = TIERS | {"tiers": {"cheap": {"backends": [wrong]}}}
    with pytest.raises(ConfigError, match=r"tiers\.cheap, far/m: prices\[1\]\.input"):
        build(Config(hub=HubConfig(home=tmp_path), routing=make_routing(tiers)), [])
