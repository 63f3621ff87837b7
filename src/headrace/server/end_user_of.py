"""For whom a caller asks, as the bodies of all dialects say it.

In: a decoded body. Out: an EndUser. A field of another type is the dialect's to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.end_user import EndUser


def end_user_of(body: Mapping[str, Any]) -> EndUser:
    """`user`, `safety_identifier` and `prompt_cache_key`; Anthropic's user is in `metadata`."""
    metadata = body.get("metadata")
    user = _text(body, "user")
    if user is None and isinstance(metadata, Mapping):
        user = _text(metadata, "user_id")
    return EndUser(user, _text(body, "safety_identifier"), _text(body, "prompt_cache_key"))


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) and value else None
