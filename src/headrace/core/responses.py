"""Stored responses: what is kept of an answer that can be asked for again, and where.

In: responses as JSON of the wire, which nobody here looks into. Out: the same, to their tenant
alone. A response that still runs is held by a lease, so that one whose server died is known.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, Protocol

from headrace.core.frozen import frozen

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
RUNNING: frozenset[ResponseStatus] = frozenset({"queued", "in_progress"})


@frozen(kw_only=True)
class StoredResponse:
    """A response as it is kept. Units: seconds of Unix.

    Fields:
        body: the response object, JSON.
        input_items: the items that its own request brought, a JSON list; those before it belong to
            the response `previous_id`.
        events: its stream, for one that may be streamed again.
        is_lost: it ran, and whoever ran it has not said so for longer than a lease lasts.
    """

    id: str
    tenant: str
    created_at_s: float
    status: ResponseStatus
    body: bytes
    input_items: bytes
    previous_id: str | None = None
    events: bytes | None = None
    is_lost: bool = False


class ResponseStore(Protocol):
    """Keeps responses until they are deleted or too old. Waits for its database; any thread.

    Every method raises StoreError. An id of another tenant is an unknown one.
    """

    def add(self, response: StoredResponse) -> None:
        """Keep a response; one that runs begins its lease."""
        ...

    def update(
        self, response_id: str, status: ResponseStatus, body: bytes, events: bytes | None = None
    ) -> bool:
        """Replace a response that runs. False: it has ended or was deleted, and stays so."""
        ...

    def renew(self, response_ids: Collection[str]) -> frozenset[str]:
        """Prolong leases. Returns the ids that still run: somebody may have ended the others."""
        ...

    def find(self, tenant: str, response_id: str) -> StoredResponse | None:
        """A response, with its events."""
        ...

    def history(self, tenant: str, response_id: str, max_bytes: int) -> Sequence[StoredResponse]:
        """The response and those it continues, the oldest first, without events.

        Empty: it is unknown. A first one with a `previous_id`: that one is gone.
        Raises: RequestError, before anything is read, for more than `max_bytes`.
        """
        ...

    def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a response. False: there is none."""
        ...
