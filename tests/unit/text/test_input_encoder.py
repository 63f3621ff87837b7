"""Texts and pairs as an encoder reads them, whole and cut, beside the Hugging Face library."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.errors import InvalidParameter, RequestError
from headrace.text.input_encoder import cut_lengths
from headrace.text.tokenizer import Tokenizer
from oracle.tiny_encoders import make_tokenizer

TEXTS = ["the cat sat on the mat", "rain", "", "the moon, the cats! the rain."]
PAIRS = [(first, second) for first in TEXTS for second in TEXTS]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save(str(folder / "tokenizer.json"))
    return Tokenizer.from_huggingface(folder)


def test_whole_texts_and_pairs(tokenizer: Tokenizer) -> None:
    expected = make_tokenizer()
    expected.no_truncation()
    expected.no_padding()
    for each, got in zip(
        [*TEXTS, *PAIRS], tokenizer.input_encoder.encode([*TEXTS, *PAIRS]), strict=True
    ):
        wanted = expected.encode(*each) if isinstance(each, tuple) else expected.encode(each)
        assert (got.ids, got.types, got.num_cut) == (wanted.ids, wanted.type_ids, 0)


@pytest.mark.parametrize("keep", [3, 4, 5, 6, 9, 13])
def test_cut_texts_and_pairs(tokenizer: Tokenizer, keep: int) -> None:
    expected = make_tokenizer()
    expected.no_padding()
    whole = tokenizer.input_encoder.encode([*TEXTS, *PAIRS])
    cut = tokenizer.input_encoder.encode([*TEXTS, *PAIRS], keep=keep)
    expected.enable_truncation(keep)
    for each, got, uncut in zip([*TEXTS, *PAIRS], cut, whole, strict=True):
        wanted = expected.encode(*each) if isinstance(each, tuple) else expected.encode(each)
        assert (got.ids, got.types) == (wanted.ids, wanted.type_ids)
        assert got.num_cut == len(uncut.ids) - len(got.ids)


@pytest.mark.parametrize(("given", "keep"), [("the cat", 1), (("cat", "mat"), 2)])
def test_no_room_for_the_special_tokens(
    tokenizer: Tokenizer, given: str | tuple[str, str], keep: int
) -> None:
    with pytest.raises(InvalidParameter, match=rf"is {keep}; allowed: at least {keep + 1}"):
        tokenizer.input_encoder.encode([given], keep=keep)


def test_without_special_tokens(tokenizer: Tokenizer) -> None:
    (whole,) = tokenizer.input_encoder.encode(["the cat"], add_special_tokens=False)
    (cut,) = tokenizer.input_encoder.encode(["the cat"], add_special_tokens=False, keep=1)
    assert len(whole.ids) == 2 and cut.ids == whole.ids[:1] and cut.num_cut == 1


@given(st.lists(st.integers(0, 50), min_size=1, max_size=2), st.integers(0, 60))
def test_nothing_is_cut_that_fits_and_the_longer_text_loses(lengths: list[int], keep: int) -> None:
    kept = cut_lengths(lengths, keep)
    assert sum(kept) == min(sum(lengths), keep)
    assert all(0 <= part <= length for part, length in zip(kept, lengths, strict=True))
    if len(kept) == 2 and sum(lengths) > keep and kept[0] < lengths[0] and kept[1] < lengths[1]:
        assert abs(kept[0] - kept[1]) <= 1


@pytest.mark.parametrize("given", ["a\ud800", ("a", "\udfff")])
def test_text_that_is_not_unicode(tokenizer: Tokenizer, given: str | tuple[str, str]) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        tokenizer.input_encoder.encode([given])
