"""One HTTP/1.1 exchange over a connection of its own: no pool, no redirects, no proxy, no retries.

In: an endpoint, a method, headers, a body. Out: the status, then the body's pieces as they come,
each with the moment it was read. h11 does the protocol, asyncio the sockets. Knows nothing of what
is said.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from functools import cache

import h11

from headrace.bench.outcome import RequestFailed
from headrace.client.endpoint import Endpoint
from headrace.core.frozen import frozen

READ_BYTES = 65536


@frozen
class HttpCall:
    """What is sent. `path` is appended to the endpoint's."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


class HttpReply:
    """Status and headers of an answer, and its body as it comes."""

    def __init__(self, connection: _Connection, response: h11.Response) -> None:
        self._connection = connection
        self.status = response.status_code
        self.headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}

    async def pieces(self) -> AsyncGenerator[tuple[bytes, float], None]:
        """The body and the moment each piece was read.

        Raises: RequestFailed when the connection breaks.
        """
        while isinstance(event := await self._connection.next_event(), h11.Data):
            yield bytes(event.data), self._connection.read_s

    async def text(self, limit_bytes: int = READ_BYTES) -> str:
        """The beginning of the body."""
        body = b""
        async with aclosing(self.pieces()) as pieces:
            async for piece, _ in pieces:
                body += piece
                if len(body) >= limit_bytes:
                    break
        return body[:limit_bytes].decode("utf-8", "replace")


class _Connection:
    """h11's state beside asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = h11.Connection(our_role=h11.CLIENT)
        self.read_s = 0.0

    async def send(self, request: h11.Request, body: bytes) -> None:
        events: tuple[h11.Event, ...] = (request, h11.Data(data=body), h11.EndOfMessage())
        data = b"".join(self._protocol.send(event) or b"" for event in events)
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError:
            # The server may have answered before it hung up; reading finds out.
            return

    async def next_event(self) -> h11.Event:
        while True:
            try:
                event = self._protocol.next_event()
                if event is h11.NEED_DATA:
                    data = await self._reader.read(READ_BYTES)
                    self.read_s = time.perf_counter()
                    self._protocol.receive_data(data)
                    continue
            except (h11.RemoteProtocolError, OSError) as error:
                raise RequestFailed("broken", f"the connection broke: {error}") from None
            if isinstance(event, h11.InformationalResponse):
                continue
            if not isinstance(event, h11.Event):
                raise RequestFailed("broken", "the server spoke out of turn")
            return event


@cache
def _trusted() -> ssl.SSLContext:
    """Certificates this machine trusts; reading them takes longer than an exchange."""
    return ssl.create_default_context()


@asynccontextmanager
async def exchange(endpoint: Endpoint, call: HttpCall) -> AsyncIterator[HttpReply]:
    """Connect, send, and give the reply once its headers are there; closes at the end.

    Raises: RequestFailed.
    """
    tls = _trusted() if endpoint.is_tls else None
    try:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=tls)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RequestFailed("connect", f"{endpoint.authority}: {reason}") from None
    try:
        connection = _Connection(reader, writer)
        await connection.send(_request(endpoint, call), call.body)
        event = await connection.next_event()
        if not isinstance(event, h11.Response):
            raise RequestFailed("broken", "the server hung up without an answer")
        yield HttpReply(connection, event)
    finally:
        # Nothing is owed to the other side, and a polite end would wait for it.
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def _request(endpoint: Endpoint, call: HttpCall) -> h11.Request:
    headers = {
        "Host": endpoint.authority,
        "Connection": "close",
        "Content-Length": str(len(call.body)),
        **call.headers,
    }
    return h11.Request(
        method=call.method, target=endpoint.path + call.path, headers=list(headers.items())
    )
