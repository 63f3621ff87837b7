"""PlainConnection: h11 for uvicorn, with a short way for requests that leave nothing to decide.

In: bytes of a stranger, events of an answer. Out: events of a request, bytes. A plain request has
a whole head in one piece, ASCII alone, one Host, at most one Content-Length and no other framing,
and offers and expects nothing. From the first request of a connection that is not, h11 has the
connection: what is no HTTP, and what is rare, is judged there alone. A plain one takes a tenth of
h11's time.
"""

from __future__ import annotations

import re

import h11

# A strict part of what h11 takes. Possessive: what does not match is looked through once.
_HEAD = re.compile(
    rb"(GET|POST|DELETE) ([!-~]++) HTTP/1\.1\r\n"
    rb"((?:[-!#$%&'*+.^_`|~0-9A-Za-z]++:[\t -~]*+\r\n)++)\r\n"
)
_MAX_HEAD_BYTES = 16 * 1024
_LENGTH = re.compile(rb"[0-9]{1,15}")
# They change what follows the head, or how it is answered.
_NOT_PLAIN = frozenset({b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer"})
_ONCE = frozenset({b"host", b"content-length", b"connection"})
_WITHOUT_CONTENT = frozenset({204, 304})

_Headers = list[tuple[bytes, bytes]]
# h11's states are classes.
_State = type


class PlainRequest(h11.Request):
    """A request whose parts need no second look."""

    __slots__ = ()

    def __init__(self, method: bytes, target: bytes, headers: _Headers) -> None:
        # Frozen, as every event.
        for name, value in (
            ("method", method),
            ("target", target),
            ("headers", headers),
            ("http_version", b"1.1"),
        ):
            object.__setattr__(self, name, value)


_END = h11.EndOfMessage()


class PlainConnection:
    """What uvicorn asks of an h11.Connection. `other` takes over where a request is not plain."""

    def __init__(self, other: h11.Connection) -> None:
        self._other, self._is_plain = other, True
        self._our_state: _State = h11.IDLE
        self._their_state: _State = h11.IDLE
        self._received = b""
        # Bytes of the request's body that are to come; of the answer's, None where it is chunked.
        self._left = 0
        self._left_to_send: int | None = 0
        self._closes = False

    @property
    def our_state(self) -> _State:
        """See h11.Connection."""
        return self._our_state if self._is_plain else self._other.our_state

    @property
    def their_state(self) -> _State:
        """See h11.Connection."""
        return self._their_state if self._is_plain else self._other.their_state

    @property
    def they_are_waiting_for_100_continue(self) -> bool:
        """See h11.Connection."""
        return not self._is_plain and self._other.they_are_waiting_for_100_continue

    def receive_data(self, data: bytes) -> None:
        """See h11.Connection."""
        if self._is_plain:
            self._received += data
        else:
            self._other.receive_data(data)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """See h11.Connection. Raises: h11.RemoteProtocolError."""
        if self._is_plain and self._their_state is h11.IDLE and self._received:
            request = self._read_head()
            if request is not None:
                return request
            self._is_plain = False
            self._other.receive_data(self._received)
            self._received = b""
        if not self._is_plain:
            return self._other.next_event()
        if self._their_state is h11.SEND_BODY:
            return self._next_of_body()
        if self._received and self._their_state is h11.MUST_CLOSE:
            self._their_state = h11.ERROR
        if self._their_state is h11.ERROR:
            raise h11.RemoteProtocolError("Got data after the last request of the connection.")
        return h11.PAUSED if self._received else h11.NEED_DATA

    def send(self, event: h11.Event) -> bytes | None:
        """See h11.Connection. Raises: h11.LocalProtocolError."""
        if not self._is_plain:
            return self._other.send(event)
        if type(event) is h11.Data and self._our_state is h11.SEND_BODY:
            return self._framed(bytes(event.data))
        if type(event) is h11.Response and self._our_state is h11.SEND_RESPONSE:
            return self._head_of(event)
        if type(event) is h11.EndOfMessage and self._our_state is h11.SEND_BODY:
            if self._left_to_send:
                raise self._fail("Too little data for declared Content-Length")
            self._our_state = h11.MUST_CLOSE if self._closes else h11.DONE
            return b"0\r\n\r\n" if self._left_to_send is None else b""
        if type(event) is h11.ConnectionClosed and self._our_state is not h11.SEND_BODY:
            self._our_state = h11.CLOSED
            return None
        raise self._fail(f"can't send {type(event).__name__} in state {self._our_state}")

    def start_next_cycle(self) -> None:
        """See h11.Connection. Raises: h11.LocalProtocolError."""
        if not self._is_plain:
            self._other.start_next_cycle()
        elif self._our_state is h11.DONE and self._their_state is h11.DONE:
            self._our_state = self._their_state = h11.IDLE
        else:
            raise h11.LocalProtocolError("not in a reusable state")

    def _read_head(self) -> PlainRequest | None:
        """The request that waits, if it is plain. Mutates: states, what was received."""
        found = _HEAD.match(self._received, 0, _MAX_HEAD_BYTES)
        if found is None:
            return None
        headers: _Headers = []
        once: dict[bytes, bytes] = {}
        for line in found[3].split(b"\r\n")[:-1]:
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip(b" \t")
            if name in _NOT_PLAIN or name in once:
                return None
            if name in _ONCE:
                once[name] = value
            headers.append((name, value))
        length = once.get(b"content-length", b"0")
        connection = once.get(b"connection", b"keep-alive").lower()
        if (
            b"host" not in once
            or not _LENGTH.fullmatch(length)
            or connection not in (b"keep-alive", b"close")
        ):
            return None
        self._received = self._received[found.end() :]
        self._left, self._closes = int(length), connection == b"close"
        self._our_state, self._their_state = h11.SEND_RESPONSE, h11.SEND_BODY
        return PlainRequest(found[1], found[2], headers)

    def _next_of_body(self) -> h11.Event | type[h11.NEED_DATA]:
        """What came of the body, or its end. Mutates: what was received."""
        if not self._left:
            self._their_state = h11.MUST_CLOSE if self._closes else h11.DONE
            return _END
        if not self._received:
            return h11.NEED_DATA
        data, self._received = self._received[: self._left], self._received[self._left :]
        self._left -= len(data)
        return h11.Data(data=data)

    def _head_of(self, response: h11.Response) -> bytes:
        """The head of an answer. h11 has seen that none of its values breaks out of its line."""
        self._our_state = h11.SEND_BODY
        names = dict(response.headers)
        lines = [b"HTTP/1.1 %d %b\r\n" % (response.status_code, response.reason)]
        lines += [b"%b: %b\r\n" % pair for pair in response.headers]
        length = names.get(b"content-length")
        if response.status_code in _WITHOUT_CONTENT:
            self._left_to_send = 0
        elif length is not None:
            self._left_to_send = int(length)
        else:
            self._left_to_send = None
            lines.append(b"transfer-encoding: chunked\r\n")
        if names.get(b"connection") == b"close":
            self._closes = True
            if self._their_state is h11.DONE:
                self._their_state = h11.MUST_CLOSE
        elif self._closes:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _framed(self, data: bytes) -> bytes:
        """A piece of the answer's body. Raises: h11.LocalProtocolError beyond its length."""
        if self._left_to_send is None:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self._left_to_send -= len(data)
        if self._left_to_send < 0:
            raise self._fail("Too much data for declared Content-Length")
        return data

    def _fail(self, why: str) -> h11.LocalProtocolError:
        """Mutates: our state, from which nothing can be sent any more."""
        self._our_state = h11.ERROR
        return h11.LocalProtocolError(why)
