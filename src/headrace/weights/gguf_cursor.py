"""Reads GGUF's primitive values from untrusted bytes: numbers, strings, arrays.

In: a mapped file and a position. Out: Python values. Every length is checked against the file
before it is used, so damage and malice end in a ModelFileError that says what and where.
Arrays are walked when the file is opened and decoded when asked for: a tokenizer's arrays are
most of a header, and the engine never reads them.
Source: ggml, docs/gguf.md, "File Structure".
"""

from __future__ import annotations

import struct
from mmap import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError
from headrace.core.frozen import frozen

MAX_ARRAY_ITEMS = 1 << 23  # of a whole file; the largest tokenizers have some 2**20
MAX_ARRAY_DEPTH = 4
_MIN_LEAP = 1024  # strings that are worth one; as many are walked where it stops
_LEAP_BYTES = 1 << 16  # what a leap looks through stays in the cache
_NESTED_COST = 64  # items that an array inside an array counts for: it takes as long to walk
MAX_STRING_BYTES = 1 << 24  # of one metadata value; chat templates take some 2**14

U32, U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: U32, 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?"),
    10: U64, 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip


@frozen
class ArraySpan:
    """An array whose extent is checked and whose items are not decoded yet."""

    start: int
    item_type: int
    count: int


class GgufCursor:
    """A position in a mapped file that only moves over bytes that exist."""

    def __init__(self, path: Path, buffer: mmap, position: int = 0) -> None:
        self.path, self.position = path, position
        self._buffer, self._size = buffer, len(buffer)
        self._items_left = MAX_ARRAY_ITEMS

    def take(self, num_bytes: int, what: str) -> int:
        """Move over `num_bytes` and return where they start.

        Raises: ModelFileError if the file ends before.
        """
        start = self.position
        if num_bytes > self._size - start:
            raise ModelFileError(
                f"{self.path} is truncated or damaged: {what} at byte {start} takes {num_bytes} "
                f"bytes, but the file ends at byte {self._size}."
            )
        self.position = start + num_bytes
        return start

    def fail(self, what: str, at: int | None = None) -> ModelFileError:
        """An error that says where: at the position unless `at` is given."""
        where = self.position if at is None else at
        return ModelFileError(f"{self.path} is damaged at byte {where}: {what}.")

    def remaining(self) -> int:
        return self._size - self.position

    def number(self, layout: struct.Struct, what: str) -> int:
        value: int = layout.unpack_from(self._buffer, self.take(layout.size, what))[0]
        return value

    def text(self, what: str, max_bytes: int = MAX_STRING_BYTES) -> str:
        """A string: its length, then UTF-8."""
        length = self.number(U64, f"the length of {what}")
        start = self.take(length, what)
        if length > max_bytes:
            raise self.fail(f"{what} takes {length} bytes, at most {max_bytes} are allowed", start)
        try:
            return self._buffer[start : start + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8 ({error.reason})", start + error.start) from error

    def value(self, what: str) -> object:
        """A value after its type code; an array comes as its ArraySpan."""
        value_type = self.number(U32, f"the type of {what}")
        if value_type == _ARRAY:
            return self._span(what, 1)
        return self._scalar(value_type, what)

    def array(self, span: ArraySpan, what: str) -> list[object]:
        """Decode a span that this file gave before."""
        self.position = span.start
        return self._items(span.item_type, span.count, what)

    def _scalar(self, value_type: int, what: str) -> object:
        if value_type == _STRING:
            return self.text(what)
        layout = _NUMBERS.get(value_type)
        if layout is None:
            raise self.fail(f"{what} has type {value_type}, allowed are 0 to 12")
        return layout.unpack_from(self._buffer, self.take(layout.size, what))[0]

    def _span(self, what: str, depth: int) -> ArraySpan:
        item_type = self.number(U32, f"the item type of {what}")
        count = self.number(U64, f"the item count of {what}")
        span = ArraySpan(self.position, item_type, count)
        if depth > MAX_ARRAY_DEPTH:
            raise self.fail(f"{what} nests arrays more than {MAX_ARRAY_DEPTH} deep")
        layout = _NUMBERS.get(item_type)
        if layout is not None:
            self.take(count * layout.size, what)
        elif item_type not in (_STRING, _ARRAY):
            raise self.fail(f"items of {what} have type {item_type}, allowed are 0 to 12")
        self._items_left -= count * (_NESTED_COST if item_type == _ARRAY else 1)
        if self._items_left < 0:
            raise self.fail(f"the metadata has more than {MAX_ARRAY_ITEMS} array items in {what}")
        if item_type == _STRING:
            self._walk_strings(count, what)
        elif item_type == _ARRAY:
            for _ in range(count):
                self._span(what, depth + 1)
        return span

    def _walk_strings(self, count: int, what: str) -> None:
        index = 0
        while index < count:
            index += self._leap(count - index)
            stop = min(count, index + _MIN_LEAP)
            self._step(index, stop, what)
            index = stop

    def _step(self, index: int, stop: int, what: str) -> None:
        """Move over the strings [index, stop), one at a time."""
        buffer, unpack, position = self._buffer, U64.unpack_from, self.position
        last = self._size - U64.size
        for number in range(index, stop):
            if position > last:
                self.position = min(position, self._size)
                self.take(U64.size, f"item {number} of {what}")
            position += 8 + unpack(buffer, position)[0]
        if position > self._size:
            raise self.fail(f"item {stop - 1} of {what} ends behind the end of the file")
        self.position = position

    def _leap(self, limit: int) -> int:
        """Move over at most `limit` strings of 1 to 255 bytes, and say over how many.

        Walking them one by one takes most of the time that opening a file takes. Such a length has
        seven zeros, and text has none: all places like that are found at once. They are strings as
        long as each begins where the one before ends.
        """
        num_done = 0
        while limit - num_done > _MIN_LEAP:
            size = min(_LEAP_BYTES, self._size - self.position)
            data = np.frombuffer(self._buffer, np.uint8, size, self.position)
            starts = np.flatnonzero(_seven_zeros(data[1:]))
            if len(starts) == 0 or starts[0] != 0:
                break
            ends = starts + 8 + data[starts]
            is_chain = ends[:-1] == starts[1:]
            num_good = len(starts) if is_chain.all() else int(is_chain.argmin()) + 1
            num_good = min(num_good, limit - num_done)
            if ends[num_good - 1] > self._size - self.position:
                break
            self.position += int(ends[num_good - 1])
            num_done += num_good
            if num_good < _MIN_LEAP:
                break
        return num_done

    def _items(self, item_type: int, count: int, what: str) -> list[object]:
        layout = _NUMBERS.get(item_type)
        if layout is not None:
            start = self.take(count * layout.size, what)
            code = layout.format.removeprefix("<")
            return list(struct.unpack_from(f"<{count}{code}", self._buffer, start))
        if item_type == _STRING:
            return self._texts(count, what)
        items: list[object] = []
        for _ in range(count):
            inner_type = self.number(U32, f"the item type of {what}")
            inner_count = self.number(U64, f"the item count of {what}")
            items.append(self._items(inner_type, inner_count, what))
        return items

    def _texts(self, count: int, what: str) -> list[object]:
        buffer, unpack, position = self._buffer, U64.unpack_from, self.position
        texts: list[object] = []
        try:
            for _ in range(count):
                start = position + 8
                position = start + unpack(buffer, position)[0]
                texts.append(buffer[start:position].decode("utf-8"))
        except UnicodeDecodeError as error:
            what = f"item {len(texts)} of {what} is not UTF-8 ({error.reason})"
            raise self.fail(what, start + error.start) from error
        self.position = position
        return texts


def _seven_zeros(data: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where seven zeros begin. Shapes: [n] -> [n - 6]."""
    one = data == 0
    two = one[:-1] & one[1:]
    four = two[:-2] & two[2:]
    return four[:-3] & four[3:]  # type: ignore[no-any-return]
