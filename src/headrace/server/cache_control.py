"""What a call says of the cache of answers: the body's `cache`, as LiteLLM has it, or the header.

In: headers and a decoded body. Out: a CacheControl. Whether there is a cache is not known here.
Source: RFC 9111, section 5.2.1, for the header.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.cache_control import CacheControl
from headrace.core.errors import InvalidParameter

FIELD = "cache"
MAX_NAMESPACE = 64
_FLAGS = ("no-cache", "no-store")
_SECONDS = ("ttl", "s-maxage")
_KNOWN = ", ".join((*_FLAGS, *_SECONDS, "namespace"))


def read_cache_control(headers: Mapping[str, str], body: Mapping[str, Any]) -> CacheControl:
    """Raises: InvalidParameter for a body's `cache` that is not what it says."""
    given = body.get(FIELD)
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise InvalidParameter(FIELD, given, f"an object with some of {_KNOWN}")
    for name, value in given.items():
        _check(str(name), value)
    said = _read_header(headers.get("cache-control", ""))
    return CacheControl(
        reads=not (given.get("no-cache") or "no-cache" in said or "no-store" in said),
        writes=not (given.get("no-store") or "no-store" in said),
        max_age_s=given.get("s-maxage", said.get("max-age")),
        ttl_s=given.get("ttl"),
        namespace=given.get("namespace") or "",
        is_seeded=body.get("seed") is not None,
    )


def _check(name: str, value: object) -> None:
    field = f"{FIELD}.{name}"
    if name in _FLAGS:
        if not isinstance(value, bool):
            raise InvalidParameter(field, value, "true or false")
    elif name in _SECONDS:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 2**31:  # type: ignore[operator]
            raise InvalidParameter(field, value, "a number of seconds, 0 or more")
    elif name == "namespace":
        if not isinstance(value, str) or len(value) > MAX_NAMESPACE:
            raise InvalidParameter(field, value, f"a string of at most {MAX_NAMESPACE} characters")
    else:
        raise InvalidParameter(field, value, f"one of {_KNOWN}")


def _read_header(text: str) -> dict[str, float]:
    """Directives with their seconds, 0 without any; what cannot be read says nothing."""
    found: dict[str, float] = {}
    for part in text.lower().split(","):
        name, _, value = part.strip().partition("=")
        if not value or value.isdecimal():
            found[name] = float(value or 0)
    return found
