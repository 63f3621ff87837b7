"""Whole replies as ASGI messages.

In: a JsonReply or BytesReply. Out: the head, then the body. Streams of events are `sse`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing

from starlette.types import Send

from headrace.server.replies import BytesReply, JsonReply


async def send_json(reply: JsonReply, send: Send) -> None:
    """Send an answer that is there as a whole."""
    # An answer without content names neither kind nor length (RFC 9110, section 8.6).
    has_content = reply.status != 204
    length = {"content-length": str(len(reply.body))}
    fixed = {"content-type": reply.content_type} | length if has_content else {}
    headers = _pairs(fixed, reply.headers)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


async def send_bytes(reply: BytesReply, send: Send) -> None:
    """Send a long answer as it is read."""
    fixed = {"content-type": reply.content_type, "content-length": str(reply.num_bytes)}
    await send(
        {"type": "http.response.start", "status": 200, "headers": _pairs(fixed, reply.headers)}
    )
    async with aclosing(reply.chunks):
        async for data in reply.chunks:
            await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _pairs(fixed: dict[str, str], more: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in (fixed | dict(more)).items()
    ]
