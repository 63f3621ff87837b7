"""Tells the control tokens a template writes from those a caller typed.

Owns marks: a caller's text is written with rare other characters in place of the characters that
control tokens are made of, one for one, and goes through the template so. Where control tokens
stand in the rendered text then, the template wrote them. Taking the marks off gives the plain
rendering back, so positions agree. In: texts. Out: marked texts and positions. Knows no messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import Enum, auto

# Quotes and backslashes keep their form, because JSON escapes them; white space, because templates
# trim it. No control token consists of these alone.
_UNMARKED = frozenset("\"'\\")
# CJK extension B: rare, and printable letters without case, which Python's repr leaves alone.
_BLOCK = 0x200
_MARKS = range(0x20000, 0x2A600, _BLOCK)


class Marking(Enum):
    """`EVERY` character a control token may contain, or only the `STARTS` of control tokens."""

    NONE = auto()
    EVERY = auto()
    STARTS = auto()


class ControlTexts:
    """The texts of a tokenizer's control tokens."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = frozenset(text for text in texts if text)
        self._lengths = sorted({len(text) for text in self._texts}, reverse=True)
        first = "".join(sorted({re.escape(text[0]) for text in self._texts}))
        self._first = re.compile(f"[{first}]" if first else "(?!)")
        self._openings = frozenset(text[:2] for text in self._texts)
        self.characters = "".join(
            sorted(c for c in set("".join(self._texts)) - _UNMARKED if not c.isspace())
        )

    def find(self, text: str) -> list[tuple[int, int]]:
        """Spans of control tokens: leftmost first, the longest at a place, as tokenizers match."""
        spans: list[tuple[int, int]] = []
        found = self._first.search(text)
        while found is not None:
            at = end = found.start()
            for length in self._lengths:
                if text[at : at + length] in self._texts:
                    end = at + length
                    spans.append((at, end))
                    break
            found = self._first.search(text, max(end, at + 1))
        return spans

    def starts(self, text: str) -> list[int]:
        """Places where a control token could begin: its first two characters, or one at the end."""
        places = (found.start() for found in self._first.finditer(text))
        return [
            at
            for at in places
            if text[at : at + 2] in self._openings or at + 1 == len(text) or text[at] in self._texts
        ]


NO_CONTROL_TEXTS = ControlTexts(())


class Marker:
    """Marks texts one way, and takes marks off. Marks are characters no text of the call has."""

    def __init__(self, controls: ControlTexts, marking: Marking, texts: Iterable[str]) -> None:
        self.controls, self._marking = controls, marking
        base = _free_block(texts)
        marks = {ord(c): chr(base + at) for at, c in enumerate(controls.characters)}
        self._mark = _Table(marks)
        self._unmark = _Table({ord(mark): chr(plain) for plain, mark in marks.items()})

    def mark(self, text: str) -> str:
        if self._marking is Marking.EVERY:
            return text.translate(self._mark)
        if self._marking is Marking.STARTS:
            characters = list(text)
            for at in self.controls.starts(text):
                characters[at] = characters[at].translate(self._mark)
            return "".join(characters)
        return text

    def unmark(self, text: str) -> str:
        return text.translate(self._unmark)


def split_at(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, bool]]:
    """Cut a text into (piece, is a span) pairs that join to it."""
    pieces: list[tuple[str, bool]] = []
    last = 0
    for start, end in spans:
        pieces += [(text[last:start], False), (text[start:end], True)]
        last = end
    pieces.append((text[last:], False))
    return [piece for piece in pieces if piece[0]]


class _Table(dict[int, str]):
    """A `str.translate` table that leaves other characters alone, without an exception for each."""

    def __missing__(self, key: int) -> str:
        self[key] = chr(key)
        return self[key]


def _free_block(texts: Iterable[str]) -> int:
    """The first code point of a block that none of the texts touches."""
    used = {
        ord(character) // _BLOCK * _BLOCK
        for text in texts
        if text and max(text) >= chr(_MARKS[0])
        for character in text
    }
    return next((block for block in _MARKS if block not in used), _MARKS[0])
