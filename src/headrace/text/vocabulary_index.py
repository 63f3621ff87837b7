"""A vocabulary and its merges as one block of bytes that is looked up where it lies.

Owns the layout: a hash table from a token's bytes to its id, the tokens by id, and the merges by
the token they make. In: dictionaries of a built tokenizer, once; then bytes, as mapped or read.
Out: single ids, tokens and merges, without a dictionary of the whole. Knows nothing of text.

    u32: max_chars, num_ids, num_slots, num_merges
    slots[num_slots]      id + 1 of a token, at or after the place its checksum names; 0: none
    starts[num_ids + 1]   where a token's bytes start in `tokens`
    firsts[num_ids + 1]   the first merge that makes a token
    merges[num_merges]    rank, and how many bytes the left part has
    tokens                all tokens' bytes, by id
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

_HEAD = 4
_WORD = array("I").itemsize
_NO_PLACE = 0


class VocabularyIndex:
    """Looks up tokens in what `index_vocabulary` gave. The bytes are trusted: check them before."""

    def __init__(self, body: bytes | memoryview) -> None:
        view = memoryview(body)
        words = view[: len(body) // _WORD * _WORD].cast("I")
        self.max_chars, self.num_ids, num_slots, num_merges = words[:_HEAD]
        ends = list(
            accumulate((_HEAD, num_slots, self.num_ids + 1, self.num_ids + 1, 2 * num_merges))
        )
        self._slots, self._starts, self._firsts, self._merges = (
            words[start:end] for start, end in pairwise(ends)
        )
        self._tokens = view[ends[-1] * _WORD :]
        self._mask = num_slots - 1

    def id_of(self, token: str) -> int | None:
        """The id of a token, None for a text that is none."""
        wanted = token.encode()
        place = zlib.crc32(wanted) & self._mask
        while (found := self._slots[place]) != _NO_PLACE:
            if self._bytes(found - 1) == wanted:
                return found - 1
            place = place + 1 & self._mask
        return None

    def token_of(self, token_id: int) -> str | None:
        """The token of an id, None for an id that has none."""
        if not 0 <= token_id < self.num_ids:
            return None
        return str(self._bytes(token_id), "utf-8") or None

    def merges_of(self, token_id: int) -> Iterator[tuple[int, str, str]]:
        """Every merge that makes a token: its rank, its left and its right part."""
        joined = self._bytes(token_id)
        for at in range(self._firsts[token_id], self._firsts[token_id + 1]):
            cut = self._merges[2 * at + 1]
            yield self._merges[2 * at], str(joined[:cut], "utf-8"), str(joined[cut:], "utf-8")

    def _bytes(self, token_id: int) -> memoryview:
        return self._tokens[self._starts[token_id] : self._starts[token_id + 1]]


def index_vocabulary(ids: Mapping[str, int], merges: Sequence[Sequence[str]]) -> bytes:
    """Lay a vocabulary out for VocabularyIndex. `merges` are pairs, best first."""
    num_ids = max(ids.values()) + 1
    tokens = [b""] * num_ids
    for token, token_id in ids.items():
        tokens[token_id] = token.encode()
    making: list[list[int]] = [[] for _ in tokens]
    for rank, (left, right) in enumerate(merges):
        making[ids[left + right]] += (rank, len(left.encode()))
    slots = _hash_table(tokens)
    words = array("I", (max(map(len, ids)), num_ids, len(slots), len(merges)))
    words += slots
    words += array("I", accumulate(map(len, tokens), initial=0))
    words += array("I", accumulate((len(made) // 2 for made in making), initial=0))
    words += array("I", [word for made in making for word in made])
    return words.tobytes() + b"".join(tokens)


def _hash_table(tokens: Sequence[bytes]) -> array[int]:
    size = 1 << (2 * len(tokens)).bit_length()  # at most half full, so that searches are short
    slots = array("I", bytes(size * _WORD))
    for token_id, token in enumerate(tokens):
        place = zlib.crc32(token) & size - 1
        while slots[place] != _NO_PLACE:
            place = place + 1 & size - 1
        if token:
            slots[place] = token_id + 1
    return slots
