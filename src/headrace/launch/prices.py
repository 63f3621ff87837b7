"""What calls are charged: whose models the tiers ask, and the price book of the settings.

In: settings. Out: providers of backends; prices of tiers, of files, then what is built in. Opens no
connection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headrace.core.config import Config
from headrace.core.errors import ConfigError, as_written
from headrace.core.routing_config import RoutingConfig, TierBackendConfig, TierConfig
from headrace.economics.price_files import open_price_book
from headrace.economics.price_yaml import read_price_yaml
from headrace.economics.prices import LOCAL, Price, PriceBook


def tier_backends(config: RoutingConfig) -> Iterator[tuple[TierConfig, TierBackendConfig, str]]:
    """Every backend, its tier, and the provider whose price of its model is charged."""
    providers = {entry.name: entry.charged_as for entry in config.upstreams}
    for tier in config.tiers:
        for backend in tier.backends:
            yield tier, backend, providers[backend.upstream] if backend.upstream else LOCAL


def tier_prices(config: RoutingConfig) -> list[Price]:
    """Prices that tiers name, which go before those of files. Raises: ConfigError.

    A price is of a provider's model, wherever it is asked: two that differ cannot both be charged.
    """
    prices: list[Price] = []
    given: dict[tuple[str, str], Mapping[str, Any]] = {}
    for tier, backend, provider in tier_backends(config):
        if backend.price is None:
            continue
        where = f"tiers.{tier.name}, {backend.name}"
        other = given.setdefault((provider, backend.model), backend.price)
        if dict(other) != dict(backend.price):
            known = as_written(other)
            allowed = f"the price that {provider}/{backend.model} has in another tier: {known}"
            hint = "Give the upstream a provider of its own where its price is another."
            raise ConfigError(f"{where}.price", dict(backend.price), allowed, hint)
        entry = {"provider": provider, "model": backend.model, **backend.price}
        prices += read_price_yaml({"prices": [entry]}, where).prices
    return prices


def read_prices(config: Config) -> PriceBook:
    """Prices of tiers, of files, then what is built in. Raises: ConfigError."""
    economics = config.economics
    files = [Path(file).expanduser() for file in economics.price_files]
    book = open_price_book(files, economics.stale_after_days)
    if config.routing is None:
        return book
    return PriceBook([tier_prices(config.routing), *book.tables], economics.stale_after_days)
