"""EndUser: for whom a caller asks, in its own words: fields of a body that change nothing.

In: texts, which may be names or addresses of people. Out: digests, which are all that is kept:
equal texts of one tenant have equal digests, and no tenant's can be joined with another's.
"""

from __future__ import annotations

from hashlib import sha256

from headrace.core.frozen import frozen

DIGEST_CHARACTERS = 32


@frozen
class EndUser:
    """None: the caller does not say. `repr` shows no text."""

    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def __repr__(self) -> str:
        return "EndUser(...)"


NOBODY = EndUser()


def digest_of(tenant: str, text: str | None) -> str | None:
    """What the ledger keeps of a text: of SHA-256 over tenant, a zero byte and text, 32 digits."""
    if not text:
        return None
    whole = f"{tenant}\0{text}".encode("utf-8", "replace")
    return sha256(whole).hexdigest()[:DIGEST_CHARACTERS]
