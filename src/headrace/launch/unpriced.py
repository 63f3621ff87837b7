"""Models without a price, whose every call a budget with a stop refuses: a word before the first.

In: budgets, the settings, the models of a server where one is starting. Out: sentences. Before one
starts nobody knows which of the models here it will have, so one of them with a price is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from headrace.core.backend import ModelInfo
from headrace.core.budgets import Budget, BudgetScope
from headrace.core.config import DEFAULT_MODEL, Config
from headrace.core.engine_config import parse_adapters
from headrace.core.errors import ConfigError
from headrace.economics.prices import LOCAL, PriceBook
from headrace.hub.model_store import ModelStore
from headrace.launch.prices import read_prices, tier_backends

_MOST_NAMES = 3


class _Asked(NamedTuple):
    """Models by name, and (provider, model) of prices, one of which is enough for them."""

    names: Sequence[str]
    prices: Sequence[tuple[str, str]]


def describe_unpriced(scope: BudgetScope, name: str, config: Config) -> str | None:
    """Which models under a budget's stop have no price, and where prices go; else None."""
    try:
        book = read_prices(config)
        return _describe(scope, name, config, book)
    except ConfigError as error:
        # Not of this command, which has done its work: `serve` will not start with it.
        return error.message
    except OSError:
        return None


def describe_served(
    budgets: Sequence[Budget], served: Sequence[ModelInfo], config: Config, book: PriceBook
) -> Iterator[str]:
    """The same of the budgets of a server that is starting: a sentence and whose it is."""
    found: dict[str, list[str]] = {}
    for budget in budgets:
        if budget.stop_nano_usd is not None:
            text = _describe(budget.scope, budget.name, config, book, served)
            if text is not None:
                found.setdefault(text, []).append(budget.id)
    for text, ids in found.items():
        yield f"budget {_some(ids)}: {text}"


def _describe(
    scope: BudgetScope,
    name: str,
    config: Config,
    book: PriceBook,
    served: Sequence[ModelInfo] | None = None,
) -> str | None:
    today = datetime.now(UTC).date()
    unpriced = [
        asked
        for asked in _asked(scope, name, config, book, served)
        if all(book.find(*pair, today) is None for pair in asked.prices)
    ]
    names = list(dict.fromkeys(name for asked in unpriced for name in asked.names))
    if not names:
        return None
    each = "it" if len(names) == 1 else "each of them"
    return (
        f"{_some(names)}: no price, so the stop refuses every call of {each} (429). Add a price to "
        "a file of economics.price_files"
        + (", or to its tier's backend" if config.routing is not None else "")
        + ", or set no --stop."
    )


def _asked(
    scope: BudgetScope,
    name: str,
    config: Config,
    book: PriceBook,
    served: Sequence[ModelInfo] | None,
) -> list[_Asked]:
    """What calls under the budget may be of."""
    local = _here(config) if served is None else [_of_server(info) for info in served]
    known = local
    if config.routing is not None:
        backends = tier_backends(config.routing)
        known = [_Asked([each.model], [(provider, each.model)]) for _, each, provider in backends]
    if scope != "model":
        return known if config.routing is not None or served is not None else [_any_of(known)]
    found = _any_of([asked for asked in known if name in asked.names])
    if not found.prices:
        found = _any_of([asked for asked in local if name in asked.names])
    if served is not None:
        return [found] if found.prices else []
    if name in parse_adapters(config.engine.adapters):
        # Without a price of its own it costs what the model beneath it does.
        beneath = [pair for pair in _any_of([*known, *local]).prices if pair[0] == LOCAL]
        return [_Asked([name], [(LOCAL, name), *beneath])]
    return [found if found.prices else _Asked([name], _anywhere(name, config, book))]


def _any_of(asked: Sequence[_Asked]) -> _Asked:
    """One of them with a price is enough."""
    names = dict.fromkeys(name for each in asked for name in each.names)
    return _Asked(list(names), [pair for each in asked for pair in each.prices])


def _of_server(info: ModelInfo) -> _Asked:
    """A model that is served; an adapter costs what the model beneath it does, or its own."""
    names = [info.name] if info.parent is None else [info.name, info.parent]
    return _Asked([info.name], [(LOCAL, name) for name in names])


def _here(config: Config) -> list[_Asked]:
    """Models that a server of this machine could have, by the names that prices go by."""
    here = [model.name for model in ModelStore(config.hub).list()] or [DEFAULT_MODEL]
    return [_Asked([name], [(LOCAL, name)]) for name in here]


def _anywhere(name: str, config: Config, book: PriceBook) -> list[tuple[str, str]]:
    """A model that nobody serves yet: one of the catalogue runs here, others somewhere."""
    if ModelStore(config.hub).catalogue.find(name) is not None:
        return [(LOCAL, name)]
    providers = dict.fromkeys(price.provider for table in book.tables for price in table)
    return [(provider, name) for provider in providers]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
