"""Dialect: whose words the envelope uses for what no route says: errors, and headers of limits.

In: an error as `error_responses` describes it, what is left of a key's limits. Out: bytes and
headers. A route's own answers are not its concern.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.economics.rate_limits import LimitLevel
from headrace.server.error_responses import ErrorReply


class Dialect(Protocol):
    """How a family of routes words errors and headers."""

    query_names: tuple[str, ...]
    """Names in the query of its clients that mean nothing here."""

    @property
    def error_event(self) -> str | None:
        """Name of the event that ends a stream with an error; None: it has no name."""
        ...

    def error_body(self, error: ErrorReply, request_id: str) -> bytes: ...

    def headers(
        self, request_id: str, levels: Sequence[LimitLevel], unix_s: float
    ) -> dict[str, str]:
        """Headers of every answer beside those that all dialects share.

        Units: `unix_s` is now, in seconds of Unix.
        """
        ...


class OpenAIDialect:
    """The shared headers are OpenAI's."""

    query_names: tuple[str, ...] = ()
    error_event: str | None = None

    def error_body(self, error: ErrorReply, request_id: str) -> bytes:
        """See Dialect."""
        return error.body()

    def headers(
        self, request_id: str, levels: Sequence[LimitLevel], unix_s: float
    ) -> dict[str, str]:
        """See Dialect."""
        return {}


OPENAI = OpenAIDialect()
