"""FirstAnswers: a call that names itself is answered once, however often it is sent.

In: the header `Idempotency-Key` of a call, its tenant, route and body; its answer as it is sent.
Out: for the same call again the same bytes, without another run and another bill. Kept in memory,
for a day, within bounds: a restart, and another server, know nothing of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Send

from headrace.core.errors import InvalidParameter, RequestError
from headrace.core.stores import Caller
from headrace.server.error_responses import HttpRefusal

HEADER = "idempotency-key"
REPLAYED = (b"idempotent-replayed", b"true")
KEEP_S = 24 * 3600.0
MAX_ANSWERS, MAX_BYTES, MAX_ANSWER_BYTES = 10_000, 64 * 1024**2, 8 * 1024**2

_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Name = tuple[str, str, str]


class Recorder:
    """Passes an answer on and keeps it. After `let_go` nobody listens, and it is kept alone."""

    def __init__(self, send: Send) -> None:
        self._send: Send | None = send
        self._num_bytes = 0
        self.messages: list[Message] = []
        self.has_ended = False

    async def send(self, message: Message) -> None:
        """See starlette.types.Send."""
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes <= MAX_ANSWER_BYTES:
            self.messages.append(dict(message))
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.has_ended = True
        if self._send is not None:
            await self._send(message)

    def let_go(self) -> None:
        """The client has left."""
        self._send = None

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    @property
    def is_worth_keeping(self) -> bool:
        """Whether it is a whole answer, and no error."""
        is_whole = self.has_ended and self._num_bytes <= MAX_ANSWER_BYTES
        return is_whole and self.messages[0].get("status") == 200


@dataclass(slots=True)
class _Call:
    """`messages` are empty while it runs."""

    digest: bytes
    at_s: float
    recorder: Recorder
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[Message] = field(default_factory=list)
    num_bytes: int = 0


class FirstAnswers:
    """Belongs to one event loop. What `begin` took `end` gives back."""

    def __init__(self) -> None:
        self._calls: OrderedDict[Name, _Call] = OrderedDict()
        self._num_bytes = 0

    async def begin(
        self, name: Name, body: Mapping[str, Any], recorder: Recorder, now_s: float
    ) -> list[Message]:
        """The answer that there is; nothing, and the name is taken, for a call that is the first.

        Units: `now_s` by a clock that only goes forward.
        Raises: HttpRefusal 409 while the first one runs, RequestError for another body.
        """
        self._forget_old(now_s)
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
        # Its client may have the last byte before the call has ended here.
        while (known := self._calls.get(name)) and _is_ending(known):
            await known.ended.wait()
        if known is None:
            self._calls[name] = _Call(digest, now_s, recorder)
            return []
        if known.digest != digest:
            raise RequestError(
                f"The Idempotency-Key {name[2]!r} was sent with another body. Use a new one for "
                "each request; the same one only to send the same request again.",
                "Idempotency-Key",
                "idempotency_key_reused",
            )
        if not known.messages:
            raise HttpRefusal(
                409,
                f"The first request with the Idempotency-Key {name[2]!r} is still running. Send "
                "it again later for its answer.",
                {"Retry-After": "1", "retry-after-ms": "1000"},
            )
        return known.messages

    def end(self, name: Name, has_failed: bool, now_s: float) -> None:
        """Keep the answer; one that failed may be asked for anew."""
        call = self._calls.pop(name)
        call.ended.set()
        recorder = call.recorder
        if recorder.is_worth_keeping and not has_failed:
            call.messages, call.num_bytes = recorder.messages, recorder.num_bytes
            call.at_s = now_s
            self._calls[name] = call
            self._num_bytes += call.num_bytes
            self._forget_old(now_s)

    def _forget_old(self, now_s: float) -> None:
        """Let go of what is too old or too much, the oldest first, and of nothing that runs."""
        while name := self._next_to_forget(now_s - KEEP_S):
            self._num_bytes -= self._calls.pop(name).num_bytes

    def _next_to_forget(self, oldest_s: float) -> Name | None:
        is_too_much = self._num_bytes > MAX_BYTES or len(self._calls) > MAX_ANSWERS
        for name, call in self._calls.items():
            if call.messages:
                return name if is_too_much or call.at_s <= oldest_s else None
        return None


def _is_ending(call: _Call) -> bool:
    return call.recorder.has_ended and not call.ended.is_set()


def read_name(headers: Mapping[str, str], caller: Caller, path: str) -> Name | None:
    """The name of a call, if it has one. Raises: InvalidParameter."""
    key = headers.get(HEADER)
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        allowed = "1 to 255 visible ASCII characters"
        raise InvalidParameter("Idempotency-Key", key, allowed, "It is a header.")
    return caller.tenant, path, key


async def replay(messages: list[Message], send: Send) -> None:
    """Send an answer again, and say that it is one."""
    for message in messages:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), REPLAYED]}
        await send(message)
