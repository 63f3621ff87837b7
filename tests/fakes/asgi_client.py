"""AsgiClient: calls an app in this process, without sockets: tens of microseconds a call.

Belongs to one event loop, which runs only while a call does. Answers are read to their end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message


@dataclass
class Reply:
    """What the app sent. `is_complete`: it also said that nothing follows."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False


@dataclass
class AsgiClient:
    app: ASGIApp
    runner: asyncio.Runner
    timeout_s: float = 60.0

    def call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request. `path` may carry a query."""
        return self.runner.run(
            exchange(self.app, method, path, body, headers or {}, self.timeout_s)
        )


async def exchange(
    app: ASGIApp,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
    *,
    leave_after: int | None = None,
) -> Reply:
    """One request from a coroutine; a client may leave after so many pieces of the answer."""
    reply, ended = Reply(), asyncio.Event()
    num_pieces = 0
    bare, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": bare,
        "raw_path": bare.encode("utf-8", "surrogateescape"),
        "query_string": query.encode("utf-8", "surrogateescape"),
        "root_path": "",
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in (headers or {}).items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    unsent = [body]

    async def receive() -> Message:
        if unsent:
            return {"type": "http.request", "body": unsent.pop(), "more_body": False}
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal num_pieces
        num_pieces += 1
        if leave_after is not None and num_pieces > leave_after:
            ended.set()
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in message["headers"]
            }
            return
        reply.body += message.get("body", b"")
        reply.is_complete = not message.get("more_body", False)
        if reply.is_complete:
            ended.set()

    if leave_after == 0:
        ended.set()
    async with asyncio.timeout(timeout_s):
        await app(scope, receive, send)
    return reply
