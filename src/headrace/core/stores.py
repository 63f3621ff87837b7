"""Who may call, as records: API keys, their scopes and limits, the caller that a key stands for.

In: what `store` has read. Out: what the server's gate, the ledger and the rate limits go by. A
secret is never in a record; `KeyRing` only says which key a secret is.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from headrace.core.frozen import frozen

Scope = Literal["inference", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

MAX_PRIORITY = 1_000_000
# The tenant of a server without keys.
DEFAULT_TENANT = "default"


@frozen(kw_only=True)
class KeyLimits:
    """What a key may use; None is no limit. A minute's worth may be used at once."""

    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    max_concurrent_requests: int | None = None


NO_LIMITS = KeyLimits()


@frozen(kw_only=True)
class ApiKey:
    """A key without its secret. Units: seconds of Unix. `priority`: lower runs earlier.

    One without `expires_at_s` is in use until it is revoked.
    """

    id: str
    name: str
    tenant: str
    scopes: tuple[Scope, ...]
    limits: KeyLimits = NO_LIMITS
    priority: int = 0
    created_at_s: float = 0.0
    revoked_at_s: float | None = None
    expires_at_s: float | None = None

    def is_in_use(self, now_s: float) -> bool:
        """Neither revoked nor past its last moment."""
        return self.revoked_at_s is None and not self.has_expired(now_s)

    def has_expired(self, now_s: float) -> bool:
        """Whether its time is over, revoked or not."""
        return self.expires_at_s is not None and now_s >= self.expires_at_s

    @property
    def prefix(self) -> str:
        """The beginning of the secret, all of it that is ever shown again."""
        return key_prefix(self.id)


def key_prefix(key_id: str) -> str:
    """How people are shown a key: its secret begins so."""
    return f"hr_{key_id}"


@frozen
class Caller:
    """Who sent a request. `tenant` salts the prefix cache and owns the usage."""

    tenant: str = DEFAULT_TENANT
    key_id: str | None = None
    limits: KeyLimits = NO_LIMITS
    priority: int = 0


ANONYMOUS = Caller()


class KeyRing(Protocol):
    """The keys as they are now. Safe to call from any thread."""

    @property
    def is_open(self) -> bool:
        """No key was ever made: nobody is asked for one."""
        ...

    @property
    def are_all_ended(self) -> bool:
        """There were keys, and none is in use: nobody gets in."""
        ...

    def find(self, secret: str) -> ApiKey | None:
        """The key of a secret; None when it is unknown or not in use. Takes constant time."""
        ...


class NoKeys:
    """The ring of a server that has no keys."""

    is_open = True
    are_all_ended = False

    def find(self, secret: str) -> ApiKey | None:
        """No secret is known."""
        return None
