"""The gate in front of every route: who calls, and whether their key may.

In: path, headers and the keys. Out: the caller, or a refusal. A route that is not named here needs
a key for inference, so that a new one is closed until somebody opens it.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.core.config import ServerConfig
from headrace.core.errors import NotAuthenticated, NotPermitted
from headrace.core.stores import ANONYMOUS, Caller, KeyRing, Scope

# Probes carry no keys.
OPEN_PATHS = frozenset({"/health", "/ping", "/version"})
_METRICS_PATHS = frozenset({"/metrics", "/load"})
_ADMIN_PREFIXES = ("/admin", "/debug")
_ADMIN_PATHS = frozenset(
    {
        *("/sleep", "/wake_up", "/is_sleeping"),
        *("/pause", "/resume", "/is_paused", "/reset_prefix_cache", "/server_info"),
        *("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    }
)


def needed_scope(path: str, config: ServerConfig) -> Scope | None:
    """The scope that a path needs once there are keys; None needs no key."""
    # A browser has no key to send; the page says that one is needed.
    if path in OPEN_PATHS or path == "/" or (path == "/metrics" and not config.protect_metrics):
        return None
    if path in _METRICS_PATHS:
        return "metrics"
    is_reload = path.startswith("/v1/models/") and path.endswith("/reload")
    is_admin = path.startswith(_ADMIN_PREFIXES) or path in _ADMIN_PATHS or is_reload
    return "admin" if is_admin else "inference"


def admit(path: str, headers: Mapping[str, str], keys: KeyRing, config: ServerConfig) -> Caller:
    """Say who calls.

    Raises: NotAuthenticated without a known key, NotPermitted when it lacks the scope.
    """
    scope = needed_scope(path, config)
    if scope is None or (keys.is_open and not config.require_key):
        return ANONYMOUS
    key = keys.find(_read_secret(headers))
    if key is None:
        raise NotAuthenticated(
            "The API key is unknown, has expired or was revoked. `headrace keys list` shows those "
            "in use.",
            None,
            "invalid_api_key",
        )
    if scope not in key.scopes:
        raise NotPermitted(
            f"The key {key.prefix} has the scopes {', '.join(key.scopes)}; this route needs "
            f"{scope}. Make a key with `headrace keys create NAME --scope {scope}`.",
            None,
            "insufficient_scope",
        )
    return Caller(key.tenant, key.id, key.limits, key.priority)


def _read_secret(headers: Mapping[str, str]) -> str:
    """The key of a request. Raises: NotAuthenticated when there is none."""
    scheme, _, secret = headers.get("authorization", "").strip().partition(" ")
    given = secret.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "").strip()
    if not given:
        raise NotAuthenticated(
            "The request has no API key. Send it as `Authorization: Bearer KEY` or `x-api-key: "
            "KEY`.",
            None,
            "invalid_api_key",
        )
    return given
