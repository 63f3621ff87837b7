"""KeptResponses: the store of responses, as routes use it: without waiting in the event loop.

In: what a ResponseStore is asked. Out: its answers, from threads of the loop's pool. Says in the
words of the API what became of a response whose server died.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from headrace.core.errors import HeadraceError, StoreError
from headrace.core.responses import ResponseStore, StoredResponse

_log = logging.getLogger(__name__)

LOST = "The server that ran this response stopped before it was complete. Send the request again."

Answer = TypeVar("Answer")
OpenStore = Callable[[], ResponseStore]


class KeptResponses:
    """Asks the store. Without `open_store` nothing is kept, and `is_on` says so."""

    def __init__(self, open_store: OpenStore | None = None) -> None:
        self._open_store = open_store

    @property
    def is_on(self) -> bool:
        return self._open_store is not None

    async def ask(self, question: Callable[[ResponseStore], Answer]) -> Answer:
        """Put a question to the store. Raises: StoreError."""
        open_store = self._open_store
        if open_store is None:
            raise StoreError("of responses", "it is off (store.response_retention_days is 0).")
        return await asyncio.to_thread(lambda: question(open_store()))

    async def add(self, response: StoredResponse) -> bool:
        """Keep a response that has ended. False, and a line in the log: it could not be kept."""
        try:
            await self.ask(lambda store: store.add(response))
        except HeadraceError as error:
            _log.error("A response is answered and not kept: %s", error)
            return False
        return True

    async def find(self, tenant: str, response_id: str) -> StoredResponse | None:
        """A response as it is now. Raises: StoreError."""
        if not self.is_on:
            return None
        found = await self.ask(lambda store: store.find(tenant, response_id))
        return None if found is None else _say_lost(found)


def end_items(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items of a response that was ended by somebody else: what was open is not complete."""
    return [
        item | {"status": "incomplete"} if item.get("status") == "in_progress" else item
        for item in output
    ]


def _say_lost(response: StoredResponse) -> StoredResponse:
    """Turn a response that nobody runs any more into a failed one."""
    if not response.is_lost:
        return response
    body = msgspec.json.decode(response.body)
    body |= {"status": "failed", "error": {"code": "server_error", "message": LOST}}
    body["output"] = end_items(body["output"])
    return replace(response, status="failed", body=msgspec.json.encode(body))
