"""Browsers: which web pages may call this server, and by which names it may be called.

In: headers of a request and the settings. Out: CORS headers, or a refusal. A page of another origin
reads nothing unless its origin is named; a page whose DNS name was pointed at this machine (DNS
rebinding) is refused by the name it calls, because a server without keys has no other lock.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from headrace.core.config import ServerConfig
from headrace.server.error_responses import HttpRefusal

_METHODS = "GET, POST, PUT, PATCH, DELETE"
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:\s*,\s*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*")
_MAX_HEADER_NAMES = 4096
# Of the names an answer has, those that a page may read.
_EXPOSED = (
    *("retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "request-id"),
    *("x-headrace-warnings", "x-headrace-dropped-items", "x-headrace-seed", "x-headrace-engine"),
    *("x-headrace-model-sha256", "x-headrace-truncated-tokens", "idempotent-replayed"),
    *(
        f"x-ratelimit-{fact}-{kind}"
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
        for fact in ("limit", "remaining", "reset")
    ),
)
_PREFLIGHT_AGE_S = "600"


@lru_cache(maxsize=16)
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(headers: Mapping[str, str], config: ServerConfig, is_open: bool) -> None:
    """See that the name this server was called by is one of its own.

    `is_open`: nobody is asked for a key. Names that the public DNS cannot point here always pass:
    addresses, names without a dot, `.localhost`.
    Raises: HttpRefusal 403.
    """
    if not config.allowed_hosts and not (is_open and is_loopback(config.host)):
        return
    host, is_private = _read_host(headers.get("host", ""))
    if is_private or host in config.allowed_hosts:
        return
    raise HttpRefusal(
        403,
        f"This server does not answer to the name {host[:100]!r}. Call it by its address, or name "
        "it in the setting server.allowed_hosts.",
    )


# Clients call by few names, each of them again and again.
@lru_cache(maxsize=64)
def _read_host(header: str) -> tuple[str, bool]:
    """The name of a Host header without its port, and whether the public DNS cannot point it here.

    Nor can it no name at all.
    """
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return header, _is_private_name(header)
    return host, not host or _is_private_name(host)


def _is_private_name(host: str) -> bool:
    if "." not in host.rstrip(".") or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_page(headers: Mapping[str, str], config: ServerConfig, is_open: bool) -> None:
    """See that no web page sends what a browser sends without asking first: a form, or nothing.

    A page has no key to send, so it matters where nobody is asked for one.
    Raises: HttpRefusal 403.
    """
    origin = headers.get("origin")
    if is_open and origin is not None and not _is_allowed(origin, config):
        raise HttpRefusal(
            403,
            f"Pages of {origin[:100]!r} may not call this server. Name the origin in the setting "
            "server.cors_origins.",
        )


def cors_headers(headers: Mapping[str, str], config: ServerConfig) -> dict[str, str]:
    """What lets a page of an allowed origin read the answer; empty while CORS is off."""
    if not config.cors_origins:
        return {}
    origin = headers.get("origin")
    if origin is None or not _is_allowed(origin, config):
        return {"vary": "Origin"}
    return {
        "access-control-allow-origin": "*" if "*" in config.cors_origins else origin,
        "access-control-expose-headers": ", ".join(_EXPOSED),
        "vary": "Origin",
    }


def preflight_headers(
    method: str, headers: Mapping[str, str], config: ServerConfig
) -> dict[str, str] | None:
    """The answer to a browser that asks before it calls; None for every other request.

    A preflight carries no key, so it is answered in front of the gate, and says nothing of routes.
    """
    asked = headers.get("access-control-request-method")
    origin = headers.get("origin", "")
    if method != "OPTIONS" or asked is None or not _is_allowed(origin, config):
        return None
    names = headers.get("access-control-request-headers", "")
    is_list = len(names) <= _MAX_HEADER_NAMES and _HEADER_NAMES.fullmatch(names)
    return {
        "access-control-allow-methods": _METHODS,
        "access-control-max-age": _PREFLIGHT_AGE_S,
        **({"access-control-allow-headers": names} if is_list else {}),
    }


def _is_allowed(origin: str, config: ServerConfig) -> bool:
    return "*" in config.cors_origins or origin in config.cors_origins
