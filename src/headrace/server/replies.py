"""What a route returns: a JSON answer or a stream of events, with extra headers."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import field

from headrace.core.frozen import frozen
from headrace.server.error_responses import ErrorReply

WARNINGS = "x-headrace-warnings"

_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-\[\]]")
_MAX_WARNINGS = 32
_MAX_NAME_LENGTH = 64

Failed = Callable[[ErrorReply], bytes]


@frozen
class JsonReply:
    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


@frozen
class EventReply:
    """A stream of frames. `failed` words an error after the first one as the last frames.

    `headers` are read when the first frame is there: making it may add some.
    """

    frames: AsyncGenerator[bytes, None]
    headers: Mapping[str, str] = field(default_factory=dict)
    failed: Failed | None = None


@frozen
class BytesReply:
    """A long answer of known length, sent as it is read."""

    chunks: AsyncGenerator[bytes, None]
    num_bytes: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/octet-stream"


def warning_headers(names: Sequence[str]) -> dict[str, str]:
    """Name ignored fields in a header; characters that a header cannot hold become `?`."""
    if not names:
        return {}
    shown = [_UNSAFE.sub("?", name)[:_MAX_NAME_LENGTH] for name in names[:_MAX_WARNINGS]]
    return {WARNINGS: ",".join(shown)}
