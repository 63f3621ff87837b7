"""InputEncoder: texts and pairs of texts to what an encoder reads, many at once.

In: texts. Out: token ids with the text each one belongs to. Cuts a text only to a length that its
caller names. Safe to share between threads: it only reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from headrace.core.errors import InvalidParameter, RequestError
from headrace.text.tokenizer_faults import text_fault, tokenizer_faults

Input = str | tuple[str, str]


class InputTokens(NamedTuple):
    """`types` are 0, or 1 for the second text of a pair; `num_cut` tokens were left out."""

    ids: list[int]
    types: list[int]
    num_cut: int = 0


class InputEncoder:
    """A tokenizer that names control tokens in texts, as the Hugging Face library does."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def encode(
        self, inputs: Sequence[Input], add_special_tokens: bool = True, keep: int | None = None
    ) -> list[InputTokens]:
        """Tokens of texts and pairs. With `keep`, no more than so many of each.

        Special tokens stay when a text is cut. Raises: RequestError for text that is not Unicode;
        InvalidParameter where `keep` has no room for the special tokens.
        """
        backend = self._backend
        with tokenizer_faults(text_fault):
            try:
                # Runs in threads of its own and lets other threads go on.
                found = backend.encode_batch_fast(
                    list(inputs), add_special_tokens=add_special_tokens
                )
            except TypeError:
                for each in inputs:
                    for text in (each,) if isinstance(each, str) else each:
                        check_unicode(text)
                raise
        return [
            InputTokens(encoding.ids, encoding.type_ids)
            if keep is None or len(encoding) <= keep
            else self._cut(each, len(encoding), add_special_tokens, keep)
            for each, encoding in zip(inputs, found, strict=True)
        ]

    def _cut(
        self, given: Input, num_tokens: int, add_special_tokens: bool, keep: int
    ) -> InputTokens:
        """The beginnings of one or two texts, so that all has `keep` tokens.

        Raises: InvalidParameter where that is too few for the special tokens.
        """
        texts = (given,) if isinstance(given, str) else given
        parts = [self._backend.encode(text, add_special_tokens=False) for text in texts]
        is_pair = len(parts) == 2
        if add_special_tokens:
            num_special = self._backend.num_special_tokens_to_add(is_pair)
            if keep < num_special:
                allowed = f"at least {num_special}, which the model's special tokens take"
                raise InvalidParameter("truncate_prompt_tokens", keep, allowed)
            keep -= num_special
        lengths = cut_lengths([len(part) for part in parts], keep)
        for part, length in zip(parts, lengths, strict=True):
            part.truncate(length)
        whole: Encoding = self._backend.post_process(
            parts[0], parts[1] if is_pair else None, add_special_tokens
        )
        return InputTokens(whole.ids, whole.type_ids, num_tokens - len(whole))


def cut_lengths(lengths: Sequence[int], keep: int) -> list[int]:
    """How much of one text stays, or of two: the longer one loses first.

    Source: the tokenizers library, TruncationStrategy::LongestFirst.
    """
    if sum(lengths) <= keep:
        return list(lengths)
    if len(lengths) == 1:
        return [keep]
    short, long = sorted(lengths)
    long = short if short > keep else max(short, keep - short)
    if short + long > keep:
        short = keep // 2
        long = short + keep % 2
    return [short, long] if lengths[0] <= lengths[1] else [long, short]


def check_unicode(text: str) -> None:
    """Raises: RequestError for an unpaired surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"The text has an unpaired surrogate (\\u{ord(text[error.start]):04x}) at character "
            f"{error.start}; send valid Unicode.",
            code="invalid_value",
        ) from error
