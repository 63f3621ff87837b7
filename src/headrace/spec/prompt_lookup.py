"""PromptLookup: guesses the next tokens of one answer from what its text has had before.

In: the caller's prediction, prompt, tokens as they are chosen. Out: the longest earlier place that
ends like the text does now, and what followed there. The search is that of LZ77 compressors: a
chain of places for each pair of tokens, newest first, of which a bounded number is looked at.
Knows nothing of what a guess costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

MAX_PLACES = 32
MAX_MATCH = 24
"""Bounds of one search, which takes some 20 us at worst: places, and tokens compared at each."""
PREDICTED_MATCH = 6
"""An answer that begins like its prediction is as likely to go on so as after so many equal tokens.
"""

_BORDER = -1
_PAIR_BITS = 32


class Match(NamedTuple):
    """The text's end stands also right before `start`, `num_tokens` long."""

    start: int
    num_tokens: int


class PromptLookup:
    """The text of one request.

    token_ids   | prediction | border | prompt ..... | output ... |
    previous                 place -> the newest place before it after the same two tokens
    """

    def __init__(self, prompt: Sequence[int], predicted: Sequence[int] = ()) -> None:
        self._token_ids: list[int] = []
        self._newest: dict[int, int] = {}
        self._previous: list[int] = [0]
        self._num_predicted = len(predicted)
        self._num_before_output = 0
        if predicted:
            self.append((*predicted, _BORDER))
        self._prompt_start = len(self._token_ids)
        self.append(prompt)
        self._num_before_output = len(self._token_ids)

    def append(self, token_ids: Iterable[int]) -> None:
        """The text has grown. Mutates: self."""
        known, newest, previous = self._token_ids, self._newest, self._previous
        last = known[-1] if known else _BORDER
        for token_id in token_ids:
            known.append(token_id)
            if last == _BORDER or token_id == _BORDER:
                previous.append(0)
            else:
                pair = last << _PAIR_BITS | token_id
                previous.append(newest.get(pair, 0))
                newest[pair] = len(known)
            last = token_id

    def tail(self) -> Sequence[int]:
        """The end of the text, as long as it is looked at."""
        return self._token_ids[max(self._prompt_start, len(self._token_ids) - MAX_MATCH) :]

    def answer(self) -> Sequence[int]:
        """What came after the prompt, with the prompt's end before it."""
        return self._token_ids[max(self._prompt_start, self._num_before_output - MAX_MATCH) :]

    def find(self) -> Match | None:
        """The longest earlier place like the end of the text; of equals the newest."""
        end = len(self._token_ids)
        if self._begins_as_predicted(end):
            return Match(end - self._num_before_output, PREDICTED_MATCH)
        best, place = Match(0, 0), self._previous[end]
        for _ in range(MAX_PLACES):
            if not place or best.num_tokens >= MAX_MATCH:
                break
            num_tokens = self._num_equal(place, end)
            if num_tokens > best.num_tokens:
                best = Match(place, num_tokens)
            place = self._previous[place]
        return best if best.num_tokens else None

    def read(self, match: Match, num_tokens: int) -> tuple[int, ...]:
        """What followed at a match; where it reaches the end of the text, it repeats itself."""
        known, end = self._token_ids, len(self._token_ids)
        found: list[int] = []
        for place in range(match.start, match.start + num_tokens):
            token_id = known[place] if place < end else found[place - end]
            if token_id == _BORDER:
                break
            found.append(token_id)
        return tuple(found)

    def _begins_as_predicted(self, end: int) -> bool:
        """Whether the output is short and the same as the beginning of the prediction."""
        num_output = end - self._num_before_output
        if num_output >= min(self._num_predicted, PREDICTED_MATCH):
            return False
        return self._token_ids[:num_output] == self._token_ids[self._num_before_output :]

    def _num_equal(self, place: int, end: int) -> int:
        known = self._token_ids
        limit = min(place, MAX_MATCH)
        for count in range(limit):
            if known[place - 1 - count] != known[end - 1 - count]:
                return count
        return limit
