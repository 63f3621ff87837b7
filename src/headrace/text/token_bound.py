"""TokenBound: how many tokens a text has at least, known without making any.

In: a tokenizer's rules and vocabulary. Out: a number that is never too large, so that a prompt of
megabytes is refused at once where it cannot fit. No token stands for more than the longest one
does. Where a rule may drop text, or join any amount of it into one token, nothing is known.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

from tokenizers import Tokenizer as Backend

from headrace.text.token_bytes import BYTE_PIECES, Spelling

_ALPHANUMERIC = bytes(byte for byte in range(128) if chr(byte).isalnum())
_KEEPING_NORMALIZERS = ("NFC", "Prepend", "Replace")
_KEEPING_SPLITS = ("ByteLevel", "Digits", "Metaspace", "Split")
# Composition makes at most 3.5 bytes one: U+1FBE with two accents U+0390. ASCII stays as it is.
_NFC_FACTOR = 4
_ASCII = bytes(range(128))
# So few that putting accents in order, which takes the square of their number, stays quick.
_SLICE_CHARS = 256
# Of a character and its accents on both sides of an end: four at most become one.
_SLICE_LOSS_BYTES = 32


class TokenBound:
    """One vocabulary's longest tokens: in all, in ASCII letters and digits, in all but ASCII."""

    def __init__(self, backend: Backend, spelling: Spelling) -> None:
        """Reads the whole vocabulary: a few tenths of a second."""
        self._counts_bytes = spelling is Spelling.BYTE_ALPHABET
        normalizers = _steps(backend.normalizer, "normalizers")
        self._composes = any(step["type"] == "NFC" for step in normalizers)
        vocabulary = backend.get_vocab()
        self._is_known = _keeps_all(backend, vocabulary, spelling, normalizers)
        added = {token.content for token in backend.get_added_tokens_decoder().values()}
        self._longest = self._most_alphanumeric = self._most_high = 1
        for token in vocabulary:
            data = spelling.to_bytes(token)
            size = len(data) if self._counts_bytes else len(data.decode("utf-8", "replace"))
            if token in added:
                size = max(size, len(token.encode()))
            self._longest = max(self._longest, size)
            self._most_alphanumeric = max(self._most_alphanumeric, _num_alphanumeric(data))
            high = max(_num_high(data), _num_high(token.encode()) if token in added else 0)
            self._most_high = max(self._most_high, high)

    def fewest_tokens(self, text: str, enough: int | None = None) -> int:
        """A number of tokens that the text has at least, special ones left out; 0 is unknown.

        Looks no further than to `enough`, which spares the most where accents are out of order.
        """
        if not self._is_known:
            return 0
        if text.isascii():
            most = -(-_num_alphanumeric(text.encode()) // self._most_alphanumeric)
            return max(most, -(-len(text) // self._longest))
        if not self._counts_bytes:
            return len(text) // (_NFC_FACTOR if self._composes else 1) // self._longest
        data = text.encode("utf-8", "replace")
        whole = len(data) // (_NFC_FACTOR if self._composes else 1) // self._longest
        # The longest tokens are spaces and dashes; bytes of letters say more.
        if not self._composes:
            return max(whole, _num_high(data) // self._most_high)
        if enough is not None and whole >= enough:
            return whole
        num_bytes = None if enough is None else enough * self._most_high
        return max(whole, _num_high_composed(text, num_bytes) // self._most_high)


def _num_high(data: bytes) -> int:
    """Bytes of all characters but ASCII."""
    return len(data.translate(None, _ASCII))


def _num_high_composed(text: str, most: int | None) -> int:
    """The least that they are once accents are composed, slice by slice until there are `most`.

    The tokenizers' tables of compositions have none that Python's lack.
    """
    found = _SLICE_LOSS_BYTES  # the first slice has no end before it
    for start in range(0, len(text), _SLICE_CHARS):
        found -= _SLICE_LOSS_BYTES
        if most is not None and found >= most:
            break
        composed = unicodedata.normalize("NFC", text[start : start + _SLICE_CHARS])
        found += _num_high(composed.encode("utf-8", "replace"))
    return max(0, found)


def _num_alphanumeric(data: bytes) -> int:
    return len(data) - len(data.translate(None, _ALPHANUMERIC))


def _keeps_all(
    backend: Backend,
    vocabulary: dict[str, int],
    spelling: Spelling,
    normalizers: list[dict[str, Any]],
) -> bool:
    """Whether everything in a text gets into tokens, none of which holds any amount of it."""
    is_bytes = spelling is Spelling.BYTE_ALPHABET
    pieces = BYTE_PIECES[:256] if is_bytes else BYTE_PIECES[256:]
    has_bytes = is_bytes or bool(getattr(backend.model, "byte_fallback", False))
    replaced = [step for step in normalizers if step["type"] == "Replace"]
    splits = _steps(backend.pre_tokenizer, "pretokenizers")
    return (
        spelling is not Spelling.OPAQUE
        and type(backend.model).__name__ == "BPE"
        and has_bytes
        and vocabulary.keys() >= set(pieces)
        and all(step["type"] in _KEEPING_NORMALIZERS for step in normalizers)
        and all(step["pattern"] == {"String": " "} and step["content"] for step in replaced)
        and all(step["type"] in _KEEPING_SPLITS for step in splits)
        and all(step.get("behavior") != "Removed" for step in splits)
        and not any(
            token.lstrip or token.rstrip for token in backend.get_added_tokens_decoder().values()
        )
    )


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    """A part of a tokenizer.json as its steps, those within each other too."""
    if part is None:
        return []
    waiting, found = [json.loads(part.__getstate__())], []
    while waiting:
        step = waiting.pop()
        inner = step.get(name)
        waiting += inner or []
        if inner is None:
            found.append(step)
    return found
