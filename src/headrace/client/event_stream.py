"""Server-sent events, taken apart as they come.

In: bytes in pieces of any size. Out: the data of each event that is complete. Comments, ids and
event names are read over.
Source: WHATWG HTML, section 9.2.6, interpreting an event stream.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(rb"\r\n|\n|\r")
MAX_EVENT_BYTES = 16 * 1024**2


class EventTooLong(Exception):
    """An event without an end."""


class EventStreamDecoder:
    """Keeps what has come of the next event."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    @property
    def has_partial(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._rest.strip() or self._data)

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next bytes; returns the data of events that they complete.

        Raises: EventTooLong.
        """
        self._rest += piece
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event has more than {MAX_EVENT_BYTES} bytes")
        events = []
        for line in self._take_lines():
            if line:
                self._take_field(line)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    def _take_lines(self) -> list[bytes]:
        # A carriage return at the very end may be half of a line end.
        held = b"\r" if self._rest.endswith(b"\r") else b""
        *lines, rest = _LINE_END.split(self._rest[: len(self._rest) - len(held)])
        self._rest = rest + held
        return lines

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
