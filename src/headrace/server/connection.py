"""GuardedConnection: what a connection may cost, whoever is at its other end.

Owns the time a client has to send a request's head and to take what was sent to it, and how many
connections there are. In: bytes of a stranger. Out: requests to the app, or a closed connection.
Knows no route; what a body may be is `json_body`'s concern.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, ClassVar, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from headrace.core.config import ServerConfig
from headrace.core.errors import CapacityError
from headrace.core.frozen import frozen
from headrace.server.auth import OPEN_PATHS
from headrace.server.error_responses import ErrorReply, describe_error
from headrace.server.plain_connection import PlainConnection
from headrace.server.replies import JsonReply
from headrace.server.send_reply import send_json

_CONTINUE = b"HTTP/1.1 100"
# Of the files a process may open, those that are not connections: models, database, libraries.
_OTHER_FILES = 256
_MOST_FILES = 65_536
# Beyond the limit these many are told why; more are closed at once.
_MAX_REFUSALS_OPEN = 64


@frozen
class ConnectionLimits:
    """What one connection may take. Units: seconds."""

    header_timeout_s: float
    write_timeout_s: float
    max_connections: int


def connection_limits(config: ServerConfig) -> ConnectionLimits:
    """The limits of the settings; `max_connections` is derived from the open-file limit."""
    derived = config.max_connections or derive_max_connections()
    return ConnectionLimits(config.header_timeout_s, config.write_timeout_s, derived)


def derive_max_connections() -> int:
    """As many as the process may open files, without those that other parts need.

    Mutates: the soft limit of this process, raised towards the hard one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    num_files = _MOST_FILES if soft == resource.RLIM_INFINITY else soft
    return max(num_files - _OTHER_FILES, num_files // 2)


def guard_connections(limits: ConnectionLimits) -> type[GuardedConnection]:
    """The protocol class for uvicorn, with its limits."""
    return type("LimitedConnection", (GuardedConnection,), {"limits": limits})


class TooManyConnections:
    """The app of a connection beyond the limit: probes are answered, others are told to wait."""

    def __init__(self, app: ASGIApp, max_connections: int) -> None:
        self._app, self._max_connections = app, max_connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        full = CapacityError(
            f"{self._max_connections} connections are open, this server's limit "
            "(max_connections). Close idle ones, or send the request again later."
        )
        reply = describe_error(full, "")
        headers = {**reply.headers, "Connection": "close"}
        await send_json(JsonReply(reply.body(), reply.status, headers), send)


class _Joined:
    """A transport on which the head of an answer leaves with the beginning of its body.

    One system call and one packet instead of two, and a client that wakes up once.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send; a head waits for what comes next, at most until the loop's next turn."""
        if not self._head and data.startswith(b"HTTP/1.1 ") and not data.startswith(_CONTINUE):
            self._head = data
            self._loop.call_soon(self._send_head)
        else:
            head, self._head = self._head, b""
            self._transport.write(head + data)

    def close(self) -> None:
        """Send what waits, then close."""
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        if self._head:
            self.write(b"")


class GuardedConnection(H11Protocol):
    """HTTP/1.1 that gives up on clients who neither send nor take."""

    limits: ClassVar[ConnectionLimits]

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn: Any = PlainConnection(self.conn)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or one that is told that there are too many."""
        super().connection_made(cast(asyncio.Transport, _Joined(transport, self.loop)))
        num_beyond = len(self.connections) - self.limits.max_connections
        if num_beyond > _MAX_REFUSALS_OPEN:
            transport.abort()
            return
        if num_beyond > 0:
            self.app: Any = TooManyConnections(self.app, self.limits.max_connections)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Read; the head of a request has to be complete within its time, however it trickles."""
        super().data_received(data)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every clock."""
        self._stop_head_timer()
        self.resume_writing()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        """The client takes less than it is sent: from now on it has `write_timeout_s`."""
        super().pause_writing()
        if self._write_timer is None:
            timeout_s = self.limits.write_timeout_s
            self._write_timer = self.loop.call_later(timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one that still owes us reading would never close by itself."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP in the form of every other error, and close."""
        if self._has_request:
            # An answer is on its way already; nothing may be put in between.
            self.transport.abort()
            return
        message = f"{msg} Send HTTP/1.1 with a complete head and a body as long as it says."
        body = ErrorReply(400, "invalid_request_error", message).body()
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()

    @property
    def _has_request(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        """Give the next head its time, from the first look at it; none while a request runs."""
        if self._has_request or self.transport.is_closing():
            self._stop_head_timer()
        elif self._head_timer is None:
            timeout_s = self.limits.header_timeout_s
            self._head_timer = self.loop.call_later(timeout_s, self.transport.abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
