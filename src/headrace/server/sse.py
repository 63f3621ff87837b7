"""Server-sent events: frames, comment lines, and a response that ends in an error frame if it must.

In: an iterator of encoded frames. Out: ASGI messages. The status line waits for the first frame, so
that an error before it is still an HTTP status. Knows nothing of what is inside a frame.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.types import Send

from headrace.server.dialect import OPENAI, Dialect
from headrace.server.error_responses import describe_error, is_our_fault
from headrace.server.lifetime import Lifetime, stopping_error
from headrace.server.replies import Failed

HEARTBEAT = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"

_log = logging.getLogger(__name__)


def frame(payload: bytes) -> bytes:
    """Wrap JSON, which has no line breaks of its own, as an event."""
    return b"data: " + payload + b"\n\n"


def named_frame(name: str, payload: bytes) -> bytes:
    """Wrap JSON as an event with a name."""
    return b"event: " + name.encode() + b"\n" + frame(payload)


async def send_events(
    frames: AsyncGenerator[bytes, None],
    headers: Mapping[str, str],
    send: Send,
    lifetime: Lifetime,
    request_id: str,
    dialect: Dialect = OPENAI,
    failed: Failed | None = None,
) -> Exception | None:
    """Send frames as they come; close the iterator whatever happens.

    An error after the first one is worded by `failed`, else by the dialect.

    Returns the error that ended the stream after its first frame.
    Raises: what the iterator raises before its first frame.
    """
    is_started, last = False, b""
    failure: Exception | None = None
    try:
        async with aclosing(frames):
            async for data in frames:
                if not is_started:
                    await send(_start(headers))
                    is_started = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
    except asyncio.CancelledError:
        if not (lifetime.is_closing and is_started):
            raise
        failure = stopping_error()
    except Exception as raised:
        if not is_started:
            raise
        if is_our_fault(raised):
            _log.exception("request %s failed after its first byte", request_id)
        failure = raised
    if failure is not None:
        error = describe_error(failure, request_id)
        if failed is not None:
            last = failed(error)
        else:
            body, name = dialect.error_body(error, request_id), dialect.error_event
            last = frame(body) if name is None else named_frame(name, body)
    await send({"type": "http.response.body", "body": last, "more_body": False})
    return failure


def _start(headers: Mapping[str, str]) -> dict[str, object]:
    fixed = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-cache",
        # Tells nginx to pass frames on as they come.
        "x-accel-buffering": "no",
    }
    pairs = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in (fixed | dict(headers)).items()
    ]
    return {"type": "http.response.start", "status": 200, "headers": pairs}
