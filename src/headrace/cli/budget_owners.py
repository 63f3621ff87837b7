"""Owners of budgets that nothing here knows yet: a word to who may have mistyped one.

In: a budget's scope and name, the database, the settings. Out: a sentence, or None. Tags are what
callers write, and keys are looked up by their names, so neither is asked for here.
"""

from __future__ import annotations

from typing import Literal

from headrace.core.budgets import BudgetScope
from headrace.core.clock import SystemClock
from headrace.core.config import Config
from headrace.core.engine_config import parse_adapters
from headrace.core.errors import ConfigError
from headrace.core.near_names import did_you_mean
from headrace.economics.ledger import UsageLedger
from headrace.hub.model_store import ModelStore
from headrace.store.database import Database
from headrace.store.keys import KeyStore


def describe_unknown(
    scope: BudgetScope, name: str, database: Database, config: Config
) -> str | None:
    """What is odd about a model or tenant that no call, key or setting has; else None.

    Raises: StoreError.
    """
    if scope == "tenant":
        known = {key.tenant for key in KeyStore(database, SystemClock()).list()}
        where = "no key and no call in the ledger has this tenant"
    elif scope == "model":
        try:
            known = _model_names(config)
        except (ConfigError, OSError):
            # Where models are cannot be looked at; the budget is set all the same.
            return None
        where = "no model here, in the settings or in the ledger has this name"
    else:
        return None
    known |= _used(scope, database)
    if name in known:
        return None
    hint = did_you_mean(name, known)
    return f"--{scope} is {name!r}: {where}; it counts nothing until one does. {hint}".rstrip()


def _used(scope: Literal["tenant", "model"], database: Database) -> set[str]:
    """Owners of calls. A call that was refused has the model that it asked for, `auto` too."""
    totals = UsageLedger(database).report([scope])
    if scope == "model":
        totals = [t for t in totals if t.requests + t.parts > t.errors or t.input_tokens]
    return {name for total in totals if (name := total.group[0]) is not None}


def _model_names(config: Config) -> set[str]:
    store, routing = ModelStore(config.hub), config.routing
    known = {model.name for model in store.list()}
    known |= {entry.name for entry in store.catalogue.entries}
    # Not names that they are served under: the ledger has their own.
    known |= set(parse_adapters(config.engine.adapters))
    if routing is not None:
        known |= {backend.model for tier in routing.tiers for backend in tier.backends}
    return known
