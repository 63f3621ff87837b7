"""Tool calls that are not JSON: Gemma's, and those in Python's words. Nothing of them is executed.

In: the whole text of one or several calls. Out: names, and arguments as JSON; None where it is
anything else. Numbers stay as they are written.
Source: the templates of FunctionGemma and Gemma 4; Gemma 3's prompting guide and vLLM's
tool_chat_template_gemma3_pythonic.jinja.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

Calls = list[tuple[str, str]]

MAX_DEPTH = 64
_NAME = re.compile(r"[^\W\d][\w.:/-]*")
_KEYWORD = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.])")
_BARE = re.compile(r"[^,{}\[\]<\"]+")
_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"[\s;,]*")
_ESCAPE = re.compile(
    r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|U(?:000[0-9a-fA-F]|0010)[0-9a-fA-F]{4}|.)", re.DOTALL
)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}
_WORDS = {
    "true": "true",
    "True": "true",
    "false": "false",
    "False": "false",
    "null": "null",
    "None": "null",
    "none": "null",
}


def read_gemma_calls(text: str, quote: str) -> Calls | None:
    """`call:NAME{KEY:VALUE,...}`; texts stand between two of `quote`, or are JSON's."""
    reader = _Reader(text, quote)
    try:
        reader.take("call:")
        name = reader.match(_NAME)
        call = name, reader.read_object(0)
        reader.expect_end()
    except _NoCalls:
        return None
    return [call]


def read_python_calls(text: str) -> Calls | None:
    """`name(key=value)`, several, a list of them, or each in `print(...)`."""
    reader, calls = _Reader(text), Calls()
    try:
        while not reader.is_at_end:
            calls += reader.python_item()
            reader.skip(_BETWEEN)
    except _NoCalls:
        return None
    return calls or None


class _NoCalls(Exception):
    """It is something else."""


class _Reader:
    """A place in a text. Values become JSON as they are read. Without `quote` they are Python's."""

    def __init__(self, text: str, quote: str = "") -> None:
        self._text, self._quote, self._at = text, quote, 0

    @property
    def is_at_end(self) -> bool:
        self.skip(_SPACE)
        return self._at == len(self._text)

    def skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        self._at = self._at if found is None else found.end()

    def has(self, text: str) -> bool:
        """Whether this is what follows, and step over it."""
        self.skip(_SPACE)
        is_here = self._text.startswith(text, self._at)
        self._at += len(text) * is_here
        return is_here

    def take(self, text: str) -> None:
        if not self.has(text):
            raise _NoCalls

    def match(self, pattern: re.Pattern[str]) -> str:
        self.skip(_SPACE)
        found = pattern.match(self._text, self._at)
        if found is None:
            raise _NoCalls
        self._at = found.end()
        return found.group()

    def expect_end(self) -> None:
        if not self.is_at_end:
            raise _NoCalls

    def python_item(self) -> Calls:
        """A call, one that is printed, or a list of calls."""
        if self.has("["):
            calls = Calls()
            self._several("]", lambda: calls.append(self._python_call()))
            return calls
        begin = self._at
        if self.match(_NAME) == "print" and self.has("("):
            found = _NAME.match(self._text, self._at)
            if found is not None and self._text[found.end() :].lstrip().startswith("("):
                call = self._python_call()
                self.take(")")
                return [call]
        self._at = begin
        return [self._python_call()]

    def _python_call(self) -> tuple[str, str]:
        name, members = self.match(_NAME), dict[str, str]()

        def argument() -> None:
            keyword = self.match(_KEYWORD)
            self.take("=")
            members[keyword] = self.value(0)

        self.take("(")
        self._several(")", argument)
        return name, _object(members)

    def read_object(self, depth: int) -> str:
        members = dict[str, str]()

        def member() -> None:
            key = self._key()
            self.take(":")
            members[key] = self.value(depth + 1)

        self.take("{")
        self._several("}", member)
        return _object(members)

    def value(self, depth: int) -> str:
        """The next value, as JSON."""
        if depth > MAX_DEPTH:
            raise _NoCalls
        self.skip(_SPACE)
        following = self._text[self._at : self._at + 1]
        if following == "{":
            return self.read_object(depth)
        if following == "[" or (following == "(" and not self._quote):
            return self._list("]" if following == "[" else ")", depth)
        text = self._quoted()
        if text is not None:
            return json.dumps(text, ensure_ascii=False)
        found = _NUMBER.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
            return found.group()
        word = self.match(_BARE if self._quote else _KEYWORD).strip()
        if word in _WORDS:
            return _WORDS[word]
        if not self._quote or not word:
            raise _NoCalls
        return json.dumps(word, ensure_ascii=False)

    def _list(self, end: str, depth: int) -> str:
        values: list[str] = []
        self._at += 1
        self._several(end, lambda: values.append(self.value(depth + 1)))
        return f"[{', '.join(values)}]"

    def _several(self, end: str, read: Callable[[], object]) -> None:
        """Read up to `end`, with commas between; one may follow the last."""
        while not self.has(end):
            read()
            if not self.has(","):
                self.take(end)
                return

    def _key(self) -> str:
        text = self._quoted()
        if text is not None:
            return text
        if not self._quote:
            raise _NoCalls
        return self.match(_NAME_IN_OBJECT).strip()

    def _quoted(self) -> str | None:
        """A text between quotes, if one follows."""
        if self._quote and self.has(self._quote):
            end = self._text.find(self._quote, self._at)
            if end < 0:
                raise _NoCalls
            begin, self._at = self._at, end + len(self._quote)
            return self._text[begin:end]
        marks = ('"',) if self._quote else ('"""', "'''", '"', "'")
        mark = next((mark for mark in marks if self.has(mark)), None)
        if mark is None:
            return None
        pieces: list[str] = []
        while not self._text.startswith(mark, self._at):
            if self._at >= len(self._text):
                raise _NoCalls
            found = _ESCAPE.match(self._text, self._at)
            pieces.append(self._text[self._at] if found is None else _unescape(found.group(1)))
            self._at += 1 if found is None else len(found.group())
        self._at += len(mark)
        # Two escapes may stand for one character; half of one is none.
        return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_NAME_IN_OBJECT = re.compile(r"[^\s:,{}\[\]<\"][^:,{}\[\]<\"]*")


def _unescape(escaped: str) -> str:
    """What a backslash and these characters mean; Python keeps what has no meaning."""
    if len(escaped) > 1:
        return chr(int(escaped[1:], 16))
    return _ESCAPED.get(escaped, escaped if escaped in "\\'\"/" else f"\\{escaped}")


def _object(members: dict[str, str]) -> str:
    shown = (f"{json.dumps(key, ensure_ascii=False)}: {text}" for key, text in members.items())
    return f"{{{', '.join(shown)}}}"
