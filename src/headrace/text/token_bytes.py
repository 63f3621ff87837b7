"""What bytes a token stands for.

Owns the two spellings of bytes in vocabularies: the byte alphabet of GPT-2, where each byte has a
printable character, and SentencePiece, where ▁ is a space and <0x0A> a byte. In: a tokenizer as
JSON sees it, and token texts. Out: bytes. Knows nothing of ids.
"""

from __future__ import annotations

import re
from enum import Enum, auto

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Spelling(Enum):
    """How a vocabulary writes bytes. `OPAQUE` (WordPiece and others) only decodes whole texts."""

    BYTE_ALPHABET = auto()
    SENTENCEPIECE = auto()
    OPAQUE = auto()

    def to_bytes(self, token: str) -> bytes:
        """The bytes of a token that is not an added one."""
        if self is Spelling.BYTE_ALPHABET:
            try:
                return bytes(_ALPHABET[character] for character in token)
            except KeyError:  # a piece that never comes from merging; it is its own text
                return token.encode()
        if self is Spelling.SENTENCEPIECE:
            byte = _BYTE_PIECE.fullmatch(token)
            return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()
        return token.removeprefix("##").encode()


def byte_piece(byte: int) -> str:
    """The SentencePiece name of a byte."""
    return f"<0x{byte:02X}>"


def spelling_of(decoder: object) -> Spelling:
    """Tell the spelling from the `decoder` part of a tokenizer.json."""
    if not isinstance(decoder, dict):
        return Spelling.OPAQUE
    parts = decoder.get("decoders", [decoder])
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        return Spelling.BYTE_ALPHABET
    unescapes = any(part.get("pattern") == {"String": "▁"} for part in parts)
    if unescapes or kinds & {"ByteFallback", "Metaspace"}:
        return Spelling.SENTENCEPIECE
    return Spelling.OPAQUE


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character of each byte, inverted (openai/gpt-2, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + at): byte for at, byte in enumerate(rest)}


_ALPHABET = _byte_alphabet()

BYTE_PIECES = (*_ALPHABET, *map(byte_piece, range(256)))
"""Every token that stands for one byte, in either spelling."""
