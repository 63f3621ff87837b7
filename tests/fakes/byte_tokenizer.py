"""A real Tokenizer whose tokens are the 256 bytes, then <bos> and <eos>. The ids are the bytes."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from headrace.text.tokenizer import Tokenizer
from headrace.text.tokenizer_facts import TokenizerFacts

BOS, EOS, VOCAB_SIZE = 256, 257, 258


def byte_tokenizer(more: Sequence[str] = ()) -> Tokenizer:
    """`more` are control tokens after the two there are."""
    backend = Backend(models.BPE(vocab=_byte_level_alphabet(), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<bos>", "<eos>", *more)]
    )
    facts = TokenizerFacts(
        special_tokens={"bos_token": "<bos>", "eos_token": "<eos>"},
        end_ids=frozenset({EOS}),
        is_end_complete=True,
    )
    return Tokenizer(backend, facts)


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the bytes, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable}
    stand_in |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return {stand_in[byte]: byte for byte in range(256)}
