"""Accounts: what the server asks about callers, as it is right now.

Owns nothing itself: whoever watches the database replaces the fields, requests read them. Knows
neither HTTP nor the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.core.stored_requests import RequestLog
from headrace.core.stores import KeyRing, NoKeys
from headrace.economics.budgets import Budgets
from headrace.economics.call_watch import CallWatcher
from headrace.economics.prices import PriceBook
from headrace.economics.rate_limits import RateLimits
from headrace.economics.usage_row import Ledger


@dataclass(slots=True)
class Accounts:
    """Each field is replaced as a whole, from any thread. Without a ledger no usage is kept.

    `requests` takes calls that are to be run again; None keeps none. Without `prices` nothing is
    said of costs; `budgets` needs them and the ledger. `watchers` are told of every call that
    ended.
    """

    keys: KeyRing = field(default_factory=NoKeys)
    ledger: Ledger | None = None
    limits: RateLimits = field(default_factory=RateLimits)
    requests: RequestLog | None = None
    prices: PriceBook | None = None
    watchers: tuple[CallWatcher, ...] = ()
    budgets: Budgets | None = None
