"""JsonExtent: where a JSON object in a growing text ends.

In: text, piece by piece. Out: positions. Follows strings and brackets and nothing else, so slips
inside the object do not move its end; a character that JSON has nowhere outside strings ends it
too. Work per character does not grow with the text.
"""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[\s\w.,:+-]*")
_IN_STRING = re.compile(r'[^"\\]*')


class JsonExtent:
    """Follows one object from its opening brace."""

    def __init__(self) -> None:
        self.depth = 0
        self.is_broken = False
        self._in_string = False
        self._is_escaped = False

    def advance(self, text: str, at: int, floor: int) -> int | None:
        """Follow `text` from `at` until a bracket closes down to depth `floor`.

        The position after that bracket, or of the character that breaks the object (`is_broken`);
        None when the text ends before. Mutates: self.
        """
        while at < len(text):
            if self._in_string:
                at = self._advance_string(text, at)
                continue
            at = _PLAIN.match(text, at).end()  # type: ignore[union-attr]
            if at == len(text):
                break
            character = text[at]
            if character in "{[":
                self.depth += 1
            elif character in "}]":
                self.depth -= 1
            elif character == '"':
                self._in_string = True
            else:
                self.is_broken = True
                return at
            at += 1
            if character in "}]" and self.depth <= floor:
                return at
        return None

    def _advance_string(self, text: str, at: int) -> int:
        """Follow a string to its end or the text's; the position after."""
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        at = _IN_STRING.match(text, at).end()  # type: ignore[union-attr]
        if at < len(text):
            self._is_escaped = text[at] == "\\"
            self._in_string = self._is_escaped
            at += 1
        return at
