"""The number of tokens a text has at least: never more than it has, and not far below."""

from __future__ import annotations

import sys
import unicodedata
from collections import defaultdict
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from fakes.small_vocabularies import byte_level, sentencepiece_bpe
from headrace.text.gguf_tokenizer import build_gguf_tokenizer
from headrace.text.gguf_vocabulary import read_gguf_vocabulary
from headrace.text.token_bound import _NFC_FACTOR, TokenBound
from headrace.text.token_bytes import BYTE_PIECES, Spelling, spelling_of
from headrace.text.tokenizer_views import tokenizer_parts, views_of

KINDS = ("gpt-2", "qwen2", "llama-bpe", "sentencepiece", "sentencepiece with a space")


@cache
def backend_of(kind: str) -> Backend:
    if kind.startswith("sentencepiece"):
        metadata, _ = sentencepiece_bpe(adds_space_prefix=kind.endswith("space"))
    else:
        metadata, _ = byte_level(kind)
    return build_gguf_tokenizer(read_gguf_vocabulary(metadata))


@cache
def bound_of(kind: str) -> TokenBound:
    backend = backend_of(kind)
    return TokenBound(backend, spelling_of(tokenizer_parts(backend)["decoder"]))


PIECES = st.sampled_from(
    [
        *("function", "1234567", "<s>", "<|eot_id|>", "[x]", "<tool>", "▁", " ", "\n", "é", "😀"),
        *("e\u0301", "\u1fbe\u0308\u0301", "\u1112\u1161\u11ab", "\u2126", "\u212a", "世界", "\0"),
    ]
)


@pytest.mark.parametrize("kind", KINDS)
@given(parts=st.lists(st.tuples(PIECES | st.text(max_size=8), st.integers(1, 40)), max_size=8))
@example([("\u1fbe\u0308\u0301", 40)] * 8)
@example([("\u1fbe", 40), ("\u0308\u0301\u0345", 40)] * 8)
@example([("\u1100\u1161\u11a8", 40)] * 8)
@example([("\u226e", 40), ("<\u0338", 40)] * 8)
@example([("\u1fef\u037e\u212a", 40)] * 8)
@example([("▁", 40)] * 8)
@example([(" ", 40), ("dog", 40)])
def test_no_text_has_fewer(kind: str, parts: list[tuple[str, int]]) -> None:
    text = "".join(part * count for part, count in parts)
    fewest = bound_of(kind).fewest_tokens(text)
    for view in views_of(backend_of(kind)):
        assert fewest <= len(view.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_has_many(kind: str) -> None:
    longest = max(len(token) for token in backend_of(kind).get_vocab() if token not in BYTE_PIECES)
    assert bound_of(kind).fewest_tokens("a1" * 10_000) >= 20_000 // longest
    assert bound_of(kind).fewest_tokens(" " * 20_000) >= 20_000 // longest
    assert bound_of(kind).fewest_tokens("é" * 20_000) >= 20_000 // longest // _NFC_FACTOR


@pytest.mark.parametrize("text", ["é", "世界", "e\u0301", "\u1112\u1161\u11ab", "é and 世界 "])
def test_letters_are_bound_by_the_longest_token_of_letters(text: str) -> None:
    """The longest token of all may be a line of dashes."""
    backend = byte_backend([" " * 128, "世界", "éé"])
    bound = TokenBound(backend, Spelling.BYTE_ALPHABET)
    long = text * 2000
    num_tokens = len(backend.encode(long).ids)
    assert num_tokens // 8 <= bound.fewest_tokens(long) <= num_tokens


@pytest.mark.parametrize("text", ["e\u0301", "\u0301\u0316", "é and 世界 "])
def test_no_more_is_read_than_is_enough(text: str) -> None:
    backend = byte_backend([" " * 128, "世界", "éé"])
    bound, long = TokenBound(backend, Spelling.BYTE_ALPHABET), text * 20_000
    assert 100 <= bound.fewest_tokens(long, 100) < bound.fewest_tokens(long) // 2
    assert bound.fewest_tokens(long, 10**9) == bound.fewest_tokens(long)


def test_the_tokenizers_compose_nothing_that_python_does_not() -> None:
    composed, decomposed = normalizers.NFC(), normalizers.NFD()
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    for start in range(0, len(characters), 4096):
        # Newlines compose with nothing.
        text = decomposed.normalize_str("\n".join(characters[start : start + 4096]))
        ours, theirs = unicodedata.normalize("NFC", text), composed.normalize_str(text)
        assert len(ours.encode()) <= len(theirs.encode())


def byte_backend(tokens: list[str]) -> Backend:
    """All bytes, and these texts as tokens of their own; accents are composed."""
    alphabet = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocab = {piece: i for i, piece in enumerate(BYTE_PIECES[:256])}
    merges: list[tuple[str, str]] = []
    for token in tokens:
        ((spelled, _),) = alphabet.pre_tokenize_str(token)
        for end in range(2, len(spelled) + 1):
            pair = spelled[: end - 1], spelled[end - 1]
            if spelled[:end] not in vocab:
                vocab[spelled[:end]] = len(vocab)
                merges.append(pair)
    backend = Backend(models.BPE(vocab, merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = alphabet
    backend.decoder = decoders.ByteLevel()
    return backend


def test_composition_joins_no_more_bytes_than_is_reckoned() -> None:
    """Each character that a composed one stands for may itself be written as a longer one."""
    singletons: defaultdict[str, int] = defaultdict(int)
    characters = [chr(c) for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]
    decomposed = {c: unicodedata.normalize("NFD", c) for c in characters}
    for character, parts in decomposed.items():
        if len(parts) == 1:
            singletons[parts] = max(singletons[parts], len(character.encode()))
    worst = 0.0
    for parts in {parts for character, parts in decomposed.items() if parts != character}:
        written = sum(max(singletons[part], len(part.encode())) for part in parts)
        composed = unicodedata.normalize("NFC", parts)
        worst = max(worst, written / len(composed.encode()))
    assert 3 < worst <= _NFC_FACTOR


def plain_backend() -> Backend:
    backend = Backend(models.BPE({piece: i for i, piece in enumerate(BYTE_PIECES[:256])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def strips(backend: Backend) -> None:
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True)])


def drops_spaces(backend: Backend) -> None:
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), backend.pre_tokenizer]
    )


def removes(backend: Backend) -> None:
    split = pre_tokenizers.Split(" ", "removed")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, backend.pre_tokenizer])


def lowers(backend: Backend) -> None:
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.NFKC()])


def replaces(backend: Backend) -> None:
    backend.normalizer = normalizers.Replace("a", "")


def lacks_a_byte(backend: Backend) -> None:
    vocab = {piece: i for i, piece in enumerate(BYTE_PIECES[1:256])}
    backend.model = models.BPE(vocab, [])


@pytest.mark.parametrize("change", [strips, drops_spaces, removes, lowers, replaces, lacks_a_byte])
def test_nothing_is_known_where_text_may_be_lost(change: object) -> None:
    backend = plain_backend()
    assert TokenBound(backend, Spelling.BYTE_ALPHABET).fewest_tokens("a" * 99) == 99
    change(backend)  # type: ignore[operator]
    assert TokenBound(backend, Spelling.BYTE_ALPHABET).fewest_tokens("a" * 99) == 0


def test_nothing_is_known_of_other_vocabularies() -> None:
    words = Backend(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))  # noqa: S106
    assert TokenBound(words, Spelling.OPAQUE).fewest_tokens("a" * 99) == 0
