"""Errors and headers in Anthropic's words: under /v1/messages, and of models where one asks so.

Source: Anthropic's API reference, "Errors" and "Rate limits"; types of the `anthropic` client 2.12.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from headrace.core.errors import InvalidParameter
from headrace.economics.rate_limits import LimitLevel
from headrace.server.error_responses import ErrorReply

VERSION_HEADER = "anthropic-version"
# Answers are the same in both. The later one takes no temperature, top_p and top_k; here it does.
_VERSIONS = ("2023-06-01", "2026-10-21")

_TYPE_OF = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicDialect:
    """See dialect.Dialect."""

    # Sent with anthropic-beta by its client.
    query_names: tuple[str, ...] = ("beta",)
    error_event: str | None = "error"

    def error_body(self, error: ErrorReply, request_id: str) -> bytes:
        """`{"type": "error", "error": {"type", "message"}, "request_id"}`."""
        # A full queue is the server's state; a used up limit is the key's.
        is_full = error.code == "slow_down"
        other = "invalid_request_error" if error.status < 500 else "api_error"
        kind = "overloaded_error" if is_full else _TYPE_OF.get(error.status, other)
        return msgspec.json.encode(
            {
                "type": "error",
                "error": {"type": kind, "message": error.message},
                "request_id": request_id,
            }
        )

    def headers(
        self, request_id: str, levels: Sequence[LimitLevel], unix_s: float
    ) -> dict[str, str]:
        """The request's id under Anthropic's name, and limits with the time they are full again."""
        headers = {"request-id": request_id}
        for level in levels:
            name = f"anthropic-ratelimit-{level.name}"
            full_at = datetime.fromtimestamp(unix_s + level.full_in_s, UTC)
            headers[f"{name}-limit"] = str(level.limit)
            headers[f"{name}-remaining"] = str(level.left)
            headers[f"{name}-reset"] = full_at.isoformat(timespec="milliseconds").replace(
                "+00:00", "Z"
            )
        return headers


def check_version(headers: Mapping[str, str]) -> None:
    """Raises: InvalidParameter for a version of the API that nobody knows."""
    given = headers.get(VERSION_HEADER)
    if given is not None and given not in _VERSIONS:
        raise InvalidParameter(f"The header {VERSION_HEADER}", given, " or ".join(_VERSIONS))


ANTHROPIC = AnthropicDialect()
