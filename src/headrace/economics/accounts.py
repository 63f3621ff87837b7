"""Accounts: what the server asks about callers, as it is right now.

Owns nothing itself: whoever watches the database replaces the keys, requests read them. Knows
neither HTTP nor the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.core.stores import KeyRing, NoKeys


@dataclass(slots=True)
class Accounts:
    """`keys` is replaced as a whole, from any thread."""

    keys: KeyRing = field(default_factory=NoKeys)
