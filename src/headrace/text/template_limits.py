"""What rendering a chat template may spend, and what one operation of it may read and make.

In: operands and results of operations. Out: nothing, or a SecurityError that names the limit.
Steps bound a rendering alike everywhere; processor time bounds it where steps are long. A single
operation cannot be interrupted, so it is refused beforehand when its operands would make it long.
Knows nothing of template syntax and messages.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from jinja2.exceptions import SecurityError

# Qwen2.5's template takes some 10 steps a message. A million steps take about a second.
MAX_STEPS = 1_000_000
MAX_SECONDS = 10.0
MAX_TEXT_CHARACTERS = 64 * 1024 * 1024
MAX_ITEMS = 1_000_000
MAX_MADE_BYTES = 1 << 31
_STEPS_BETWEEN_CLOCKS = 16
# Python's hash of a tuple in a tuple in a tuple takes the C stack that it likes.
_MAX_DEPTH = 1_000
_MAX_PADDING = 1_000_000
_MAX_NUMBER_BITS = 1 << 16
_MAX_PLACES = 1_000
_MAX_COMPARISONS = 1 << 30  # of characters, in a search whose time is a product
_ITEM_CHARACTERS = 32  # about what a number, or the punctuation of an item, takes as text
_PLAIN = (int, float, range, type(None))
_DIGITS = re.compile(r"\d+")
# A width that is an argument, as in "%*d" and "{:{}}".
_GIVEN_WIDTH = re.compile(r"%[^%a-zA-Z]*\*|\{[^{}]*\{")
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


class Spending:
    """What a rendering has spent. Every lookup and operator comes through here."""

    __slots__ = ("_deadline", "_left", "_made_bytes", "_steps")

    def __init__(self) -> None:
        self._steps = self._made_bytes = 0
        self._left = _STEPS_BETWEEN_CLOCKS  # steps until the clock is looked at
        self._deadline = time.thread_time() + MAX_SECONDS

    def step(self) -> None:
        """Count a step. Raises: SecurityError."""
        self._left -= 1
        if not self._left:
            self._look()

    def make(self, value: Any) -> Any:
        """Count a result, and return it. Raises: SecurityError."""
        if isinstance(value, str):
            if len(value) > MAX_TEXT_CHARACTERS:
                raise SecurityError(f"a text exceeds {MAX_TEXT_CHARACTERS} characters")
        elif isinstance(value, int):
            check_size(value.bit_length(), _MAX_NUMBER_BITS, "a number exceeds {} bits")
            return value
        elif isinstance(value, list | tuple):
            check_size(len(value), MAX_ITEMS, "a list exceeds {} items")
        else:
            return value
        self._made_bytes += sys.getsizeof(value)
        if self._made_bytes > MAX_MADE_BYTES:
            raise SecurityError(f"the template makes more than {MAX_MADE_BYTES} bytes")
        return value

    def _look(self) -> None:
        self._left = _STEPS_BETWEEN_CLOCKS
        self._steps += _STEPS_BETWEEN_CLOCKS
        check_size(self._steps, MAX_STEPS, "the template takes more than {} steps")
        if time.thread_time() > self._deadline:
            raise SecurityError(f"the template takes more than {MAX_SECONDS:g} s")


class ThreadSpending(threading.local):
    """What the rendering in this thread has spent since `start`."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin with nothing spent."""
        self.now = Spending()


def check_size(size: int, limit: int, message: str) -> None:
    """Raises: SecurityError, `message` with the limit in it."""
    if size > limit:
        raise SecurityError(message.format(limit))


def join_parts(parts: Iterable[str]) -> str:
    """A text that comes in parts, given up as soon as it is too long. Raises: SecurityError."""
    kept: list[str] = []
    size = 0
    for part in parts:
        size += len(part)
        if size > MAX_TEXT_CHARACTERS:
            raise SecurityError(f"a text exceeds {MAX_TEXT_CHARACTERS} characters")
        kept.append(part)
    return "".join(kept)


def check_whole(*values: Any) -> int:
    """For operations that read a value to its last item: texts of it, comparisons, hashes.

    A list that holds another twice, and so on, is exponentially more to read than it takes memory.
    Returns about how many characters the values are as text. Raises: SecurityError.
    """
    waiting = [(value, 1) for value in values]
    num_items = num_characters = 0
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            num_characters += len(value)
        elif not isinstance(value, _PLAIN) and isinstance(value, Collection):
            num_items += len(value)
            check_size(num_items, MAX_ITEMS, "a value has more than {} items, and items of items")
            check_size(depth, _MAX_DEPTH, "a value is nested more than {} deep")
            inner = chain(value, value.values()) if isinstance(value, Mapping) else value
            waiting += [(item, depth + 1) for item in inner]
    num_characters += (num_items + len(values)) * _ITEM_CHARACTERS
    check_size(num_characters, 2 * MAX_TEXT_CHARACTERS, "a value exceeds {} characters")
    return num_characters


def whole_iterator(value: Any) -> Any:
    """A list of what an iterator still gives; any other value as it is. Raises: SecurityError.

    Chains of iterators that read each other take the C stack when they go.
    """
    if not isinstance(value, Iterator):
        return value
    items = list(islice(value, MAX_ITEMS + 1))
    check_size(len(items), MAX_ITEMS, "a list exceeds {} items")
    return items


def check_padding(*values: object) -> None:
    """Numbers in a call that makes texts or lists. Raises: SecurityError."""
    for value in values:
        if isinstance(value, int) and value > _MAX_PADDING:
            raise SecurityError(f"a text operation asks for {value} characters or parts")


def check_places(*values: object) -> None:
    """Digits to round to. Raises: SecurityError."""
    for value in values:
        if isinstance(value, int) and abs(value) > _MAX_PLACES:
            raise SecurityError(f"a number is rounded to {value} places")


def check_format(form: str, *values: Any) -> None:
    """A text with places that values are put into. Raises: SecurityError."""
    width = sum(int(digits[:9]) for digits in _DIGITS.findall(form))
    if width > _MAX_PADDING or _GIVEN_WIDTH.search(form):
        raise SecurityError("a format asks for too many characters")
    size = len(form) + (form.count("%") + form.count("{")) * check_whole(*values)
    check_size(size, MAX_TEXT_CHARACTERS, "a format makes more than {} characters")


def check_product(operator: str, left: Any, right: Any) -> None:
    """Operands of `*` and `**`. Raises: SecurityError."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else right.bit_length()
        if abs(left) > 1 and bits > _MAX_NUMBER_BITS:
            raise SecurityError(f"a number of {bits} bits is too large")
        return
    for sequence, count in ((left, right), (right, left)):
        if isinstance(sequence, str | list | tuple) and isinstance(count, int):
            size = len(sequence) * count
            if size > (MAX_TEXT_CHARACTERS if isinstance(sequence, str) else MAX_ITEMS):
                raise SecurityError(f"a repetition makes {size} elements")


def check_replacement(text: str, old: Any, new: Any) -> None:
    """Raises: SecurityError."""
    size = len(text) + text.count(str(old)) * len(str(new))
    check_size(size, MAX_TEXT_CHARACTERS, "a replacement makes more than {} characters")


def check_join(separator: str, items: Collection[Any]) -> None:
    """Raises: SecurityError."""
    check_size(len(items), MAX_ITEMS, "a join of more than {} items")
    size = len(separator) * len(items) + sum(len(i) for i in items if isinstance(i, str))
    check_size(size, MAX_TEXT_CHARACTERS, "a join makes more than {} characters")


def check_search(text: str, wanted: Any) -> None:
    """From the end, or for one of some characters. Raises: SecurityError."""
    if isinstance(wanted, str) and len(text) * len(wanted) > _MAX_COMPARISONS:
        raise SecurityError(f"a search for {len(wanted)} characters in {len(text)}")


def check_lines(text: str, width: int = 0) -> None:
    """Lines of a text, each of which becomes an item or `width` characters longer.

    Raises: SecurityError.
    """
    num_lines = sum(map(text.count, _LINE_ENDS))
    check_size(num_lines, MAX_ITEMS, "a text has more than {} lines")
    size = len(text) + num_lines * width
    check_size(size, MAX_TEXT_CHARACTERS, "indentation makes more than {} characters")


def check_split(text: str, separator: str | None, most: int) -> None:
    """Raises: SecurityError."""
    if len(text) > MAX_ITEMS and not 0 <= most <= MAX_ITEMS:
        parts = text.split(separator, MAX_ITEMS)
        check_size(len(parts), MAX_ITEMS, "a text is split into more than {} parts")
