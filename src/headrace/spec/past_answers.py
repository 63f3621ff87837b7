"""PastAnswers: finds in answers that have ended what an answer may go on with.

In: answers as they end, with whose they are; ends of texts. Out: the longest place in an answer of
the same owner that ends alike, and what followed there. Holds at most so many tokens: an owner who
adds to more than half of them loses its own oldest ones, else whoever has added nothing for longest
does. Knows nothing of what a guess costs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace.spec.prompt_lookup import MAX_MATCH

MIN_MATCH = 4
"""Equal tokens that a place needs: of many answers, one is like any text for a token or two."""
MAX_PLACES = 8
"""Of each segment, that are looked at: newest first."""
NUM_SEGMENTS = 16
"""That the tokens are kept in at least: as many at once are forgotten."""

_BORDER = -1

Owner = tuple[str, str]
"""Tenant and cache salt: what shares cached prefixes too."""

_TOKEN_BITS = 32
_GRAM_MASK = (1 << MIN_MATCH * _TOKEN_BITS) - 1


class PastMatch(NamedTuple):
    """The text's end stands also right before `start` of a segment, `num_tokens` long."""

    segment: Segment
    start: int
    num_tokens: int


@dataclass(slots=True)
class Segment:
    """Some answers, one after the other.

    token_ids   | border | answer ... | border | answer ... |
    newest               four tokens -> the newest place right behind them
    previous             place -> the place before it behind the same tokens
    """

    token_ids: list[int] = field(default_factory=list)
    newest: dict[int, int] = field(default_factory=dict)
    previous: dict[int, int] = field(default_factory=dict)

    def append(self, token_ids: Sequence[int]) -> None:
        """Take in an answer. Mutates: self."""
        self.token_ids.append(_BORDER)
        gram, place = 0, len(self.token_ids)
        self.token_ids.extend(token_ids)
        for count, token_id in enumerate(token_ids, 1):
            gram = (gram << _TOKEN_BITS | token_id) & _GRAM_MASK
            if count < MIN_MATCH:
                continue
            before = self.newest.get(gram)
            if before is not None:
                self.previous[place + count] = before
            self.newest[gram] = place + count

    def find(self, tail: Sequence[int]) -> Iterator[PastMatch]:
        """Places that end like a text that ends with `tail`, newest first."""
        gram = 0
        for token_id in tail[-MIN_MATCH:]:
            gram = gram << _TOKEN_BITS | token_id
        place = self.newest.get(gram)
        for _ in range(MAX_PLACES):
            if place is None:
                return
            yield PastMatch(self, place, self._num_equal(place, tail))
            place = self.previous.get(place)

    def read(self, start: int, num_tokens: int) -> tuple[int, ...]:
        """What follows a place in its answer."""
        found = self.token_ids[start : start + num_tokens]
        return tuple(found[: found.index(_BORDER)] if _BORDER in found else found)

    def _num_equal(self, place: int, tail: Sequence[int]) -> int:
        limit = min(place, len(tail))
        for count in range(MIN_MATCH, limit):
            if self.token_ids[place - 1 - count] != tail[-1 - count]:
                return count
        return limit


class PastAnswers:
    """One engine's."""

    def __init__(self, max_tokens: int) -> None:
        """`max_tokens`: of all owners together. Each takes some 200 bytes of memory."""
        self.max_tokens = max_tokens
        self.num_tokens = 0
        self._segment_tokens = max(1, max_tokens // NUM_SEGMENTS)
        # In the order of their newest answers.
        self._owners: dict[Owner, deque[Segment]] = {}

    def add(self, owner: Owner, token_ids: Sequence[int]) -> None:
        """An answer has ended; `token_ids` are it, and some tokens before it. Mutates: self."""
        token_ids = token_ids[-self.max_tokens // 2 :]
        if len(token_ids) <= MIN_MATCH:
            return
        segments = self._owners.pop(owner, None) or deque([Segment()])
        self._owners[owner] = segments
        if len(segments[-1].token_ids) >= self._segment_tokens:
            segments.append(Segment())
        segments[-1].append(token_ids)
        self.num_tokens += len(token_ids) + 1
        while self.num_tokens > self.max_tokens:
            size = sum(len(segment.token_ids) for segment in segments)
            self._forget(owner if 2 * size > self.max_tokens else next(iter(self._owners)))

    def find(self, owner: Owner, tail: Sequence[int]) -> PastMatch | None:
        """The longest place that ends like `tail`; of equals the newest."""
        segments = self._owners.get(owner)
        if segments is None or len(tail) < MIN_MATCH:
            return None
        best: PastMatch | None = None
        for segment in reversed(segments):
            for match in segment.find(tail):
                if best is None or match.num_tokens > best.num_tokens:
                    best = match
            if best is not None and best.num_tokens >= MAX_MATCH:
                break
        return best

    def _forget(self, owner: Owner) -> None:
        """Let go of an owner's oldest segment. Mutates: self."""
        segments = self._owners[owner]
        self.num_tokens -= len(segments.popleft().token_ids)
        if not segments:
            del self._owners[owner]
