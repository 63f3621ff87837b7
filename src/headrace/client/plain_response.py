"""PlainResponse: an HTTP/1.1 answer that leaves nothing to decide, read without h11.

In: bytes of a server. Out: the head, pieces of the body, whether it has ended. Plain is an answer
with one length, or in chunks, over a connection that stays open; of any other `head` says so before
it has taken a byte, and h11 judges it. A plain one takes a fifth of h11's time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# A strict part of what h11 takes. Possessive: what does not match is looked through once.
_HEAD = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [\t -~]*+)?\r\n"
    rb"((?:[-!#$%&'*+.^_`|~0-9A-Za-z]++:[\t -~]*+\r\n)*+)\r\n"
)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t -~]*+)?[ \t]*+\r\n")
_LENGTH = re.compile(r"[0-9]{1,15}")
# The end of a head, also of one that is not plain: h11 takes lines without a return.
_HEAD_END = re.compile(rb"\n\r?\n")
_MAX_LINE_BYTES = 4096
# They have no body, whatever their head says.
_WITHOUT_BODY = frozenset({204, 205, 304})
# They say how long the body is, or what becomes of the connection.
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection", "upgrade"})

Head = tuple[int, Mapping[str, str]]


class BrokenResponse(Exception):
    """What came is no HTTP."""


class NotPlain(Exception):
    """The head is for h11 to read."""


class PlainResponse:
    """One answer. Feed it what comes; `received` is what it has not taken yet."""

    def __init__(self) -> None:
        self.received = b""
        self.is_over = False
        # Bytes of the body, or of its chunk, that are to come; None before a chunk's own line.
        self._left: int | None = None
        self._is_chunked = False
        # A chunk's data ends with a line end of its own.
        self._ends_chunk = False

    def feed(self, data: bytes) -> None:
        """More bytes have come."""
        self.received = self.received + data if self.received else data

    def head(self, max_bytes: int) -> Head | None:
        """Status and headers by names in lower case; None: more has to come. Raises: NotPlain."""
        found = _HEAD.match(self.received)
        if found is None:
            if len(self.received) > max_bytes or _HEAD_END.search(self.received):
                raise NotPlain
            return None
        status = int(found[1])
        headers: dict[str, str] = {}
        for line in found[2].decode("ascii").split("\r\n")[:-1]:
            name, _, value = line.partition(":")
            name = name.lower()
            if name in headers and name in _FRAMING:
                raise NotPlain
            headers[name] = value.strip(" \t")
        length = headers.get("content-length")
        coding = headers.get("transfer-encoding")
        if (
            status in _WITHOUT_BODY
            or headers.get("connection", "keep-alive").lower() != "keep-alive"
            or "upgrade" in headers
            or (coding is None) == (length is None)
            or (coding is not None and coding.lower() != "chunked")
            or (length is not None and not _LENGTH.fullmatch(length))
        ):
            raise NotPlain
        self.received = self.received[found.end() :]
        self._is_chunked, self._left = coding is not None, None if length is None else int(length)
        self.is_over = self._left == 0
        return status, headers

    def piece(self) -> bytes:
        """What has come of the body since; b"": nothing, or it is over. Raises: BrokenResponse."""
        if not self._is_chunked:
            data = self.received[: self._left]
            self.received = self.received[len(data) :]
            self._left = (self._left or 0) - len(data)
            self.is_over = not self._left
            return data
        parts = []
        while self.received and not self.is_over:
            if self._left is None and not self._begin_chunk():
                break
            if self._left:
                data = self.received[: self._left]
                self.received = self.received[len(data) :]
                self._left -= len(data)
                parts.append(data)
            if self._left == 0:
                self._left, self._ends_chunk = None, True
        return b"".join(parts)

    def _begin_chunk(self) -> bool:
        """Read a chunk's line, or the end. False: more has to come. Raises: BrokenResponse."""
        if self._ends_chunk:
            if not self._take_line_end():
                return False
            self._ends_chunk = False
        found = _CHUNK.match(self.received)
        if found is None:
            if b"\n" in self.received or len(self.received) > _MAX_LINE_BYTES:
                raise BrokenResponse("a chunk has no length")
            return False
        size = int(found[1], 16)
        if size:
            self.received, self._left = self.received[found.end() :], size
            return True
        return self._end(found.end())

    def _end(self, begin: int) -> bool:
        """Read over what follows the last chunk, up to an empty line. Always False."""
        # The line end of the last chunk may be the first half of the empty line's.
        end = self.received.find(b"\r\n\r\n", begin - 2)
        if end >= 0:
            self.received, self.is_over = self.received[end + 4 :], True
        elif len(self.received) > _MAX_LINE_BYTES:
            raise BrokenResponse("what follows the last chunk has no end")
        return False

    def _take_line_end(self) -> bool:
        """Raises: BrokenResponse where something else stands."""
        if len(self.received) < 2 and b"\r\n".startswith(self.received):
            return False
        if not self.received.startswith(b"\r\n"):
            raise BrokenResponse("a chunk is longer than its length")
        self.received = self.received[2:]
        return True
