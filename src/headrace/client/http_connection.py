"""HttpConnection: HTTP/1.1 to one server, one exchange after the other over the same socket.

In: a request as bytes. Out: status and headers, then the body as it comes. Plain answers are read
by `plain_response`; from the first one of a connection that is not, h11 has the connection. asyncio
does the sockets. Knows neither retries nor what is said.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from functools import cache

import h11

from headrace.client.endpoint import Endpoint
from headrace.client.plain_response import BrokenResponse, NotPlain, PlainResponse
from headrace.core.frozen import frozen

READ_BYTES = 65536
MAX_HEAD_BYTES = 65536


class ConnectionFailed(Exception):
    """The exchange cannot go on. `was_asked`: the request may have reached the server.

    `is_stale`: a used connection that the server had closed before it answered a byte.
    """

    def __init__(self, reason: str, was_asked: bool, is_stale: bool = False) -> None:
        self.was_asked, self.is_stale = was_asked, is_stale
        super().__init__(reason)


class WaitedTooLong(ConnectionFailed):
    """Nothing came in time."""


@frozen
class ReplyHead:
    """Status and headers; names are in lower case."""

    status: int
    headers: Mapping[str, str]


class HttpConnection:
    """A socket and what is read of an answer. Belongs to one exchange at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._plain = PlainResponse()
        # None while every answer was plain.
        self._protocol: h11.Connection | None = None
        self._num_exchanges = 0
        self._has_heard = False

    @property
    def can_be_reused(self) -> bool:
        """Whether another exchange may follow: both sides keep it open, and nothing is left."""
        if self._protocol is None:
            return self._plain.is_over and not self._plain.received and self.is_open
        return (
            self._protocol.our_state is h11.DONE
            and self._protocol.their_state is h11.DONE
            and not self._protocol.trailing_data[0]
            and self.is_open
        )

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent: the other side has neither hung up nor said more.

        What it says unasked (a 408 before it hangs up) is no answer to the next request.
        """
        if self._writer.is_closing():
            return False
        # One step of reading: it ends with what has come, or would wait. Nobody else reads now.
        reading = self._reader.read(1)
        try:
            reading.send(None)
        except (StopIteration, OSError):
            return False
        finally:
            reading.close()
        return True

    async def ask(
        self, target: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> ReplyHead:
        """Send a POST and wait for the head of its answer. Raises: ConnectionFailed."""
        self._num_exchanges += 1
        self._has_heard = False
        if self._protocol is None:
            self._plain = PlainResponse()
            data = _head_of(target, headers) + body
        else:
            self._protocol.start_next_cycle()
            data = _send(self._protocol, target, headers, body)
        try:
            async with asyncio.timeout(timeout_s):
                # A server that hung up may have answered before; reading finds out.
                with suppress(OSError):
                    self._writer.write(data)
                    await self._writer.drain()
                if self._protocol is None and (head := await self._plain_head()) is not None:
                    return head
                if self._protocol is None:
                    self._protocol = _new_protocol()
                    _send(self._protocol, target, headers, body)
                    self._protocol.receive_data(self._plain.received)
                event = await self._next_event(self._protocol)
        except TimeoutError:
            raise WaitedTooLong(f"no answer began within {timeout_s:g} s", True) from None
        if not isinstance(event, h11.Response):
            raise ConnectionFailed("it hung up without an answer", True)
        found = {name.decode().lower(): value.decode("latin-1") for name, value in event.headers}
        return ReplyHead(event.status_code, found)

    async def piece(self, timeout_s: float) -> bytes | None:
        """The next bytes of the body; None at its end. Raises: ConnectionFailed."""
        # What is here already needs no timer.
        data = self._plain_piece() if self._protocol is None else b""
        if data:
            return data
        try:
            async with asyncio.timeout(timeout_s):
                if self._protocol is not None:
                    event = await self._next_event(self._protocol)
                    return bytes(event.data) if isinstance(event, h11.Data) else None
                while not data and not self._plain.is_over:
                    await self._receive_plain()
                    data = self._plain_piece()
        except TimeoutError:
            raise WaitedTooLong(f"the answer stood still for {timeout_s:g} s", True) from None
        return data or None

    def close(self) -> None:
        """Hang up at once: nothing is owed to the other side. Calling it twice is harmless."""
        self._writer.transport.abort()

    async def _plain_head(self) -> ReplyHead | None:
        """The head of a plain answer; None of any other. Raises: ConnectionFailed."""
        try:
            while (found := self._plain.head(MAX_HEAD_BYTES)) is None:
                await self._receive_plain()
        except NotPlain:
            return None
        return ReplyHead(*found)

    def _plain_piece(self) -> bytes:
        """Raises: ConnectionFailed."""
        try:
            return self._plain.piece()
        except BrokenResponse as error:
            raise self._broken(error) from None

    async def _receive_plain(self) -> None:
        """Wait for more bytes. Raises: ConnectionFailed."""
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            raise self._broken(error) from None
        if not data:
            raise self._broken("it hung up before the answer was whole")
        self._has_heard = True
        self._plain.feed(data)

    def _broken(self, why: object) -> ConnectionFailed:
        is_stale = self._num_exchanges > 1 and not self._has_heard
        return ConnectionFailed(f"the connection broke: {why}", True, is_stale)

    async def _next_event(self, protocol: h11.Connection) -> h11.Event:
        while True:
            try:
                event = protocol.next_event()
                if event is h11.NEED_DATA:
                    data = await self._reader.read(READ_BYTES)
                    self._has_heard = self._has_heard or bool(data)
                    protocol.receive_data(data)
                    continue
            except (h11.RemoteProtocolError, OSError) as error:
                raise self._broken(error) from None
            if isinstance(event, h11.InformationalResponse):
                continue
            if not isinstance(event, h11.Event):
                raise ConnectionFailed("it spoke out of turn", True)
            return event


def _head_of(target: str, headers: Mapping[str, str]) -> bytes:
    """Raises: ConnectionFailed where a header is none."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    text = "".join((f"POST {target} HTTP/1.1\r\n", *lines, "\r\n"))
    if not text.isascii() or text.count("\n") > len(lines) + 2 or text.count("\r") > len(lines) + 2:
        raise ConnectionFailed("a header of the request has a line end or is not ASCII", False)
    return text.encode()


def _send(protocol: h11.Connection, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The request, as h11 writes it."""
    request = h11.Request(method="POST", target=target, headers=list(headers.items()))
    events: tuple[h11.Event, ...] = (request, h11.Data(data=body), h11.EndOfMessage())
    return b"".join(protocol.send(event) or b"" for event in events)


def _new_protocol() -> h11.Connection:
    return h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)


@cache
def _trusted() -> ssl.SSLContext:
    """Certificates this machine trusts; reading them takes longer than an exchange."""
    return ssl.create_default_context()


async def connect(endpoint: Endpoint, timeout_s: float) -> HttpConnection:
    """Open a connection. Raises: ConnectionFailed."""
    try:
        async with asyncio.timeout(timeout_s):
            tls = await asyncio.to_thread(_trusted) if endpoint.is_tls else None
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=tls)
    except TimeoutError:
        raise WaitedTooLong(f"no connection within {timeout_s:g} s", False) from None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConnectionFailed(f"no connection: {reason}", False) from None
    return HttpConnection(reader, writer)
