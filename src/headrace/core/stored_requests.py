"""Stored requests: what is kept of a call so that it can be run again, and by whom it is taken.

In: a call that has ended. Out: the same, from a store. `redacted` keeps digests in place of prompt
and answer: enough to say later whether two calls were the same, not what they said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from headrace.core.frozen import frozen


@frozen
class StoredAnswer:
    """Tokens of one answer. Without a finish reason it was cut off."""

    token_ids: tuple[int, ...]
    finish_reason: str | None


@frozen(kw_only=True)
class StoredRequest:
    """One call. Units: seconds of Unix; `size_bytes` is about what it takes while it waits.

    Fields:
        request_id: the `x-request-id` of its answer, which a client may have chosen.
        operation: the route. model: the backend's name of the model.
        body: the body as it came; None when it was redacted.
        answers: for each prompt its answers; empty when they were redacted.
        receipt: as JSON, see core.receipt.
        body_sha256, answers_sha256: set by the store.
    """

    request_id: str
    tenant: str
    created_at_s: float
    operation: str
    model: str
    body: Mapping[str, Any] | None
    answers: Sequence[Sequence[StoredAnswer]]
    receipt: Mapping[str, Any]
    size_bytes: int = 0
    body_sha256: str = ""
    answers_sha256: str = ""

    @property
    def is_redacted(self) -> bool:
        return self.body is None


class RequestLog(Protocol):
    """Takes calls that have ended. Never waits and never fails."""

    def append(self, request: StoredRequest) -> None: ...
