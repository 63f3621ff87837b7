"""IncrementalDetokenizer: tokens in, the text they complete out, never half a character.

In: token ids as they come. Out: text that joins to exactly `Tokenizer.decode` of all ids, however
they are grouped. Work per token does not grow with the text: tokens have exact bytes, and a UTF-8
decoder keeps the last few. Knows nothing of stop strings.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from headrace.core.errors import UnsupportedFormat
from headrace.text.tokenizer import Tokenizer

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class IncrementalDetokenizer:
    """The text side of one answer. The answer continues a prompt, so its first space stays.

    `spaces_between_special_tokens` changes nothing here, as in `Tokenizer.decode`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        shown_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        """`shown_token_ids` are control tokens that are not skipped."""
        if not tokenizer.is_streamable:
            raise UnsupportedFormat(
                "This tokenizer (WordPiece or alike) only decodes whole texts; "
                "streamed generation needs a byte-level or SentencePiece vocabulary."
            )
        self._token_bytes = tokenizer.token_bytes
        skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        self._skipped = skipped - shown_token_ids
        self._decoder = _Utf8Decoder("replace")

    def append(self, token_ids: Iterable[int]) -> str:
        """Take tokens; return the characters that are complete, and that no earlier call returned.

        Mutates: the bytes held back, at most three.
        Raises: InvalidParameter for an id outside the vocabulary.
        """
        new = b"".join(self._token_bytes(i) for i in token_ids if i not in self._skipped)
        return self._decoder.decode(new)

    def flush(self) -> str:
        """End the text: an unfinished character becomes U+FFFD."""
        return self._decoder.decode(b"", final=True)
