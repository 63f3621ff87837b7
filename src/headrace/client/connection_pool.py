"""ConnectionPool: connections to one server, used again while both sides keep them open.

In: requests. Out: exchanges in progress. Bounded: who finds it full is told at once. Belongs to one
event loop.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.client.endpoint import Endpoint
from headrace.client.http_connection import (
    ConnectionFailed,
    HttpConnection,
    ReplyHead,
    connect,
)
from headrace.core.clock import Clock

# Below the 5 s after which uvicorn, headrace's peers and many proxies hang up.
MAX_IDLE_S = 4.0


class PoolFull(Exception):
    """Every connection is in use."""


class HttpExchange:
    """An answer that has begun. `close` it, whatever happened."""

    def __init__(self, pool: ConnectionPool, connection: HttpConnection, head: ReplyHead) -> None:
        self._pool, self._connection, self.head = pool, connection, head
        self._is_over = False

    async def piece(self, timeout_s: float) -> bytes | None:
        """The next bytes of the body; None at its end. Raises: ConnectionFailed."""
        return await self._connection.piece(timeout_s)

    async def text(self, limit_bytes: int, timeout_s: float) -> str:
        """The beginning of the body, as far as it can be read."""
        body = b""
        try:
            while len(body) < limit_bytes:
                piece = await self.piece(timeout_s)
                if piece is None:
                    break
                body += piece
        except ConnectionFailed:
            pass
        return body[:limit_bytes].decode("utf-8", "replace")

    def close(self) -> None:
        """Give the connection back, or hang up where the answer is not complete.

        Calling it twice is harmless.
        """
        if not self._is_over:
            self._is_over = True
            self._pool.take_back(self._connection)


class ConnectionPool:
    """Opens, lends and keeps connections."""

    def __init__(
        self, endpoint: Endpoint, max_connections: int, connect_timeout_s: float, clock: Clock
    ) -> None:
        self._endpoint, self._max_connections = endpoint, max_connections
        self._connect_timeout_s, self._clock = connect_timeout_s, clock
        # The last one used is used next, so that the others grow old and go.
        self._idle: list[tuple[HttpConnection, float]] = []
        self._num_lent = 0

    @property
    def num_lent(self) -> int:
        """Exchanges in progress."""
        return self._num_lent

    async def ask(
        self, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> HttpExchange:
        """Send a POST and wait for the head of its answer. Raises: ConnectionFailed, PoolFull.

        A kept connection that ends without a byte is replaced once: all but surely the server
        closed it before it had read the request.
        """
        if self._num_lent >= self._max_connections:
            raise PoolFull
        self._num_lent += 1
        connection: HttpConnection | None = None
        target = self._endpoint.path + path
        sent = {"Host": self._endpoint.authority, "Content-Length": str(len(body)), **headers}
        try:
            connection = self._take_idle()
            if connection is not None:
                try:
                    head = await connection.ask(target, sent, body, timeout_s)
                except ConnectionFailed as error:
                    connection.close()
                    connection = None
                    if not error.is_stale:
                        raise
            if connection is None:
                connection = await connect(self._endpoint, self._connect_timeout_s)
                head = await connection.ask(target, sent, body, timeout_s)
        except BaseException:
            self._num_lent -= 1
            if connection is not None:
                connection.close()
            raise
        return HttpExchange(self, connection, head)

    def take_back(self, connection: HttpConnection) -> None:
        """An exchange is over."""
        self._num_lent -= 1
        if connection.can_be_reused:
            self._idle.append((connection, self._clock.monotonic_s()))
        else:
            connection.close()

    def close(self) -> None:
        """Hang up whatever is idle; exchanges in progress end by themselves."""
        while self._idle:
            self._idle.pop()[0].close()

    def _take_idle(self) -> HttpConnection | None:
        """The one that was used last, while it is young. Older ones below it are closed."""
        oldest_s = self._clock.monotonic_s() - MAX_IDLE_S
        while self._idle:
            connection, since_s = self._idle.pop()
            if since_s < oldest_s:
                connection.close()
                self.close()
                return None
            if connection.is_open:
                return connection
            connection.close()
        return None
