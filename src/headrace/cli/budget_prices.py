"""Models without a price, whose every call a budget with a stop refuses: a word before the first.

In: a budget's scope and name, the settings. Out: a sentence, or None. Without tiers nobody knows
yet which of the models here will be served, so one of them with a price is enough.
"""

from __future__ import annotations

from datetime import UTC, datetime

from headrace.core.budgets import BudgetScope
from headrace.core.config import DEFAULT_MODEL, Config
from headrace.core.engine_config import parse_adapters
from headrace.core.errors import ConfigError
from headrace.economics.prices import LOCAL, PriceBook
from headrace.hub.model_store import ModelStore
from headrace.launch.stored_accounts import read_prices

_MOST_NAMES = 3

# Whose model, and its name.
_Asked = tuple[str, str]


def describe_unpriced(scope: BudgetScope, name: str, config: Config) -> str | None:
    """Which models under the budget's stop have no price, and where prices go; else None."""
    try:
        book = read_prices(config)
        asked, is_one_enough = _asked(scope, name, config, book)
    except ConfigError as error:
        # Not of this command, which has done its work: `serve` will not start with it.
        return error.message
    except OSError:
        return None
    today = datetime.now(UTC).date()
    unpriced = [pair for pair in asked if book.find(*pair, today) is None]
    if not unpriced or (is_one_enough and len(unpriced) < len(asked)):
        return None
    names = [name] if scope == "model" else list(dict.fromkeys(model for _, model in unpriced))
    shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    each = "it" if len(names) == 1 else "each of them"
    return (
        f"{shown}: no price, so the stop refuses every call of {each} (429). Add a price to a file "
        "of economics.price_files"
        + (", or to its tier's backend" if config.routing is not None else "")
        + ", or set no --stop."
    )


def _asked(
    scope: BudgetScope, name: str, config: Config, book: PriceBook
) -> tuple[list[_Asked], bool]:
    """What calls under the budget may be of, and whether one of them with a price is enough."""
    served = _served(config)
    if scope != "model":
        return served, config.routing is None
    if name in parse_adapters(config.engine.adapters):
        # Without a price of its own it costs what the model beneath it does.
        here = (pair for pair in (*served, *_here(config)) if pair[0] == LOCAL)
        return [(LOCAL, name), *here], True
    return [pair for pair in served if pair[1] == name] or _anywhere(name, config, book), True


def _served(config: Config) -> list[_Asked]:
    """Models of the tiers; without any those that a server here could have."""
    routing = config.routing
    if routing is not None:
        providers = {entry.name: entry.provider or entry.name for entry in routing.upstreams}
        return [
            (LOCAL if backend.upstream is None else providers[backend.upstream], backend.model)
            for tier in routing.tiers
            for backend in tier.backends
        ]
    return _here(config)


def _here(config: Config) -> list[_Asked]:
    """Models that a server of this machine could have."""
    names = config.server.served_model_names
    here = names or [model.name for model in ModelStore(config.hub).list()] or [DEFAULT_MODEL]
    return [(LOCAL, name) for name in here]


def _anywhere(name: str, config: Config, book: PriceBook) -> list[_Asked]:
    """A model that nobody serves yet: one of the catalogue runs here, others somewhere."""
    if ModelStore(config.hub).catalogue.find(name) is not None:
        return [(LOCAL, name)]
    providers = dict.fromkeys(price.provider for table in book.tables for price in table)
    return [(provider, name) for provider in providers]
