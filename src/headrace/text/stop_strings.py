"""StopStringBuffer: watches an answer for stop strings, also across the pieces it comes in.

In: pieces of text. Out: the text that is safe to send, and the stop string that ended it. Holds
back only what could still become a stop string, so the pieces join to the same text however the
answer is cut. The stop that completes first wins; of those that complete together, the one that
began first. Knows nothing of tokens; when a stop counts (min_tokens) is the caller's to decide.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.core.frozen import frozen


@frozen
class StopResult:
    """Text to send now, and the stop string that ended the answer, if one did."""

    text: str
    stop: str | None = None


class StopStringBuffer:
    """Stop strings of one answer. `include` sends the stop string too.

    Work per character is the number of stop strings, by the failure function of Knuth, Morris and
    Pratt (SIAM J. Comput. 6, 1977).
    """

    def __init__(self, stop: Sequence[str], include: bool = False) -> None:
        self._patterns = tuple(_Pattern(text) for text in stop)
        self._include = include
        self._held = ""
        self.stop: str | None = None

    def append(self, delta: str, ignore: bool = False) -> StopResult:
        """Take the next piece of the answer.

        `ignore` lets stop strings that complete in this piece pass as text. After a stop there is
        no more text.
        Mutates: the text held back.
        """
        if self.stop is not None:
            return StopResult("", self.stop)
        if not self._patterns:
            return StopResult(delta)
        self._held += delta
        start = len(self._held) - len(delta)
        for at in range(start, len(self._held)):
            done = self._advance(self._held[at])
            if done is not None and not ignore:
                return self._end(at + 1, done)
        keep = max(pattern.num_matched for pattern in self._patterns)
        safe = len(self._held) - keep
        text, self._held = self._held[:safe], self._held[safe:]
        return StopResult(text)

    def flush(self) -> str:
        """End the answer without a stop: what was held back is text after all."""
        text, self._held = self._held, ""
        return text

    def _advance(self, character: str) -> str | None:
        """Step every pattern; the longest of those that are now complete."""
        done = ""
        for pattern in self._patterns:
            if pattern.advance(character) and len(pattern.text) > len(done):
                done = pattern.text
        return done or None

    def _end(self, end: int, stop: str) -> StopResult:
        text = self._held[: end if self._include else end - len(stop)]
        self._held, self.stop = "", stop
        return StopResult(text, stop)


class _Pattern:
    """One stop string and how much of it the text's end matches."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_matched = 0
        self._fallback = _failure_function(text)

    def advance(self, character: str) -> bool:
        """Take a character; true when it completes the string, which is then searched anew."""
        matched = self.num_matched
        while matched and self.text[matched] != character:
            matched = self._fallback[matched]
        matched += self.text[matched] == character
        is_complete = matched == len(self.text)
        self.num_matched = self._fallback[matched] if is_complete else matched
        return is_complete


def _failure_function(text: str) -> list[int]:
    """For each prefix length, the longest proper prefix that is also its suffix."""
    fallback = [0, 0]
    matched = 0
    for character in text[1:]:
        while matched and text[matched] != character:
            matched = fallback[matched]
        matched += text[matched] == character
        fallback.append(matched)
    return fallback
