"""Tokenizers built from GGUF metadata, right and wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes.small_vocabularies import CONTROLS, byte_level, sentencepiece_bpe
from fakes.texts import MIXED_TEXTS
from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.text.pre_tokenizers import PRE_TOKENIZERS
from headrace.text.sentencepiece_merges import sentencepiece_merges
from headrace.text.tokenizer import Tokenizer
from headrace.text.tokenizer_cache import cache_path


@pytest.fixture(scope="module")
def gpt2_metadata() -> dict[str, object]:
    return byte_level("gpt-2")[0]


@pytest.fixture(scope="module")
def llama_metadata() -> dict[str, object]:
    return sentencepiece_bpe(adds_space_prefix=True)[0]


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_keeps_text(pre: str) -> None:
    metadata, reference = byte_level(pre)
    tokenizer = Tokenizer.from_gguf(metadata)
    for text in MIXED_TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False, parse_special=True)
        assert ids == reference.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=False)
        normal = reference.normalizer.normalize_str(text) if reference.normalizer else text
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == normal


# Words, as the published tokenizer.json of each family cuts them.
SPLIT_TEXT = "It's 12345 café's\r\n\n  x_1 !!\n\t{你好}"
SPLITS = {
    "gpt-2": ["It", "'s", " 12345", " café", "'s", "\r\n\n ", " x", "_", "1", " !!", "\n", "\t",
              "{", "你好", "}"],
    "llama-bpe": ["It", "'s", " ", "123", "45", " café", "'s", "\r\n\n", " ", " x", "_", "1",
                  " !!\n", "\t", "{你好", "}"],
    "qwen2": ["It", "'s", " ", "1", "2", "3", "4", "5", " café", "'s", "\r\n\n", " ", " x", "_",
              "1", " !!\n", "\t", "{你好", "}"],
    "smollm": ["It", "'s", " ", "1", "2", "3", "4", "5", " café", "'s", "\r\n\n ", " x", "_", "1",
               " !!", "\n", "\t", "{", "你好", "}"],
    "gpt-4o": ["It's", " ", "123", "45", " café's", "\r\n\n", " ", " x", "_", "1", " !!\n", "\t",
               "{你好", "}"],
    "tekken": ["It", "'s", " ", "1", "2", "3", "4", "5", " café", "'s", "\r\n\n", " ", " x", "_",
               "1", " !!\n", "\t", "{你好", "}"],
    "deepseek-coder": ["It", "'", "s", " ", "1", "2", "3", "4", "5", " café", "'", "s", "\r", "\n",
                       "\n", " ", " x", "_", "1", " !!", "\n", "\t{", "你好", "}"],
}  # fmt: skip


@pytest.mark.parametrize("pre", SPLITS)
def test_words_of_a_family(pre: str) -> None:
    spans = PRE_TOKENIZERS[pre].pre_tokenizer().pre_tokenize_str(SPLIT_TEXT)
    assert [SPLIT_TEXT[start:end] for _, (start, end) in spans] == SPLITS[pre]


@pytest.mark.parametrize("text", MIXED_TEXTS)
@pytest.mark.parametrize("adds_space_prefix", [True, False])
def test_sentencepiece_ids(adds_space_prefix: bool, text: str) -> None:
    metadata, reference = sentencepiece_bpe(adds_space_prefix)
    tokenizer = Tokenizer.from_gguf(metadata)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == reference.EncodeAsIds(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text) == [1, *ids]


def test_sentencepiece_reads_a_typed_underscore_as_space() -> None:
    metadata, reference = sentencepiece_bpe(False, user_defined=("▁▁", "▁▁▁"))
    tokenizer = Tokenizer.from_gguf(metadata)
    for text in ("a▁b", " ▁ x", "▁" * 7 + " y"):
        assert tokenizer.encode(text, add_special_tokens=False) == reference.EncodeAsIds(text)


def test_a_continued_answer_keeps_its_space(llama_metadata: dict[str, object]) -> None:
    tokenizer = Tokenizer.from_gguf(llama_metadata)
    ids = tokenizer.encode("the dog", add_special_tokens=False)
    assert tokenizer.decode(ids) == "the dog"
    assert tokenizer.decode(ids, is_continuation=True) == " the dog"


def test_merges_are_those_that_happen() -> None:
    """A vocabulary where one piece can be cut in several ways, and one cannot be reached."""

    scores = {"a": 0, "b": 0, "c": 0, "bc": -1, "ab": -2, "abc": -3, "aab": -4, "abb": -5}
    assert sentencepiece_merges(scores) == [("b", "c"), ("a", "b"), ("a", "bc"), ("a", "ab"),
                                            ("ab", "b")]  # fmt: skip


def test_pieces_that_merging_cannot_reach_have_no_merge() -> None:
    """In "abcd" the pair "bc" comes first, and then nothing joins: "abcd" is never made."""
    scores = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0, "bc": -1.0, "ab": -2.0, "abcd": -3.0}
    assert sentencepiece_merges(scores) == [("b", "c"), ("a", "b")]


def test_pieces_whose_merges_take_minutes_are_refused() -> None:
    scores = {"a": -1.0, "aa": -2.0, "a" * 100_000: -3.0}
    with pytest.raises(ModelFileError, match="pieces of up to 100000 characters"):
        sentencepiece_merges(scores)


def test_unused_and_special_ids(gpt2_metadata: dict[str, object]) -> None:
    tokenizer = Tokenizer.from_gguf(gpt2_metadata)
    last = tokenizer.vocab_size - 1
    assert tokenizer.token_bytes(last) == b""
    assert tokenizer.id_of("[PAD1]") is None
    assert {tokenizer.token_text(i) for i in tokenizer.special_token_ids} == set(CONTROLS)
    assert tokenizer.eos_token_ids == {tokenizer.id_of("</s>"), tokenizer.id_of("<|eot_id|>")}


@pytest.mark.parametrize("flags", [(True, False), (False, True), (True, True), (False, False)])
def test_bos_and_eos(gpt2_metadata: dict[str, object], flags: tuple[bool, bool]) -> None:
    metadata = gpt2_metadata | {
        "tokenizer.ggml.add_bos_token": flags[0],
        "tokenizer.ggml.add_eos_token": flags[1],
    }
    tokenizer = Tokenizer.from_gguf(metadata)
    bos, eos = tokenizer.id_of("<s>"), tokenizer.id_of("</s>")
    plain = tokenizer.encode("dog", add_special_tokens=False)
    assert tokenizer.encode("dog") == [bos] * flags[0] + plain + [eos] * flags[1]
    assert tokenizer.adds_bos == flags[0]


WRONG: dict[str, tuple[str, Any, type[ModelFileError], str]] = {
    "no tokenizer": ("model", None, ModelFileError, "has no tokenizer"),
    "kind": ("model", "bert", UnsupportedFormat, "is 'bert'; supported: gpt2, llama"),
    "kind type": ("model", 7, ModelFileError, "is of type int; expected str"),
    "pre": ("pre", "mystery", UnsupportedFormat, "'mystery'; supported: .*llama-bpe.*qwen2"),
    "no tokens": ("tokens", None, ModelFileError, "tokens is empty"),
    "tokens type": ("tokens", "abc", ModelFileError, "expected an array"),
    "tokens items": ("tokens", [1, 2], ModelFileError, "holds int; expected str"),
    "short types": ("token_type", [1], ModelFileError, "has 1 entries; the vocabulary has"),
    "bos": ("bos_token_id", 99999, ModelFileError, "is 99999; allowed: 0 to"),
    "negative": ("eos_token_id", -1, ModelFileError, "is -1; allowed: 0 to"),
    "bool id": ("eos_token_id", True, ModelFileError, "is of type bool; expected int"),
    "no merges": ("merges", None, ModelFileError, "merges is missing"),
    "foreign merge": ("merges", ["qq zz"], ModelFileError, "has 'qq zz'; expected two tokens"),
    "odd merge": ("merges", ["abc"], ModelFileError, "has 'abc'; expected two tokens"),
    "flag": ("add_bos_token", "yes", ModelFileError, "is of type str; expected bool"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_metadata(gpt2_metadata: dict[str, object], name: str) -> None:
    key, value, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        Tokenizer.from_gguf(gpt2_metadata | {f"tokenizer.ggml.{key}": value})


def test_token_twice(gpt2_metadata: dict[str, object]) -> None:
    tokens = list(gpt2_metadata["tokenizer.ggml.tokens"])  # type: ignore[call-overload]
    tokens[5] = tokens[6]
    with pytest.raises(ModelFileError, match="twice, as 5 and 6"):
        Tokenizer.from_gguf(gpt2_metadata | {"tokenizer.ggml.tokens": tokens})


def test_no_scores(llama_metadata: dict[str, object]) -> None:
    with pytest.raises(ModelFileError, match="scores is missing"):
        Tokenizer.from_gguf(llama_metadata | {"tokenizer.ggml.scores": None})


@pytest.mark.parametrize("damage", ["none", "cut", "flipped", "empty", "other key", "not json"])
def test_cache(llama_metadata: dict[str, object], tmp_path: Path, damage: str) -> None:
    """A second start gives the same tokenizer; a damaged file is built and written again."""
    folder = tmp_path / "new" / "cache"
    text = "the lazy <|eot_id|> <tool> dog\n\n é 漢"
    first = Tokenizer.from_gguf(llama_metadata, folder, "some/key: of any kind")
    path = cache_path(folder, "some/key: of any kind")
    good = path.read_bytes()
    bad = {
        "none": good,
        "cut": good[: len(good) // 2],
        "flipped": good[:-50] + bytes([good[-50] ^ 1]) + good[-49:],
        "empty": b"",
        "other key": good.replace(b"some/key", b"same/key"),
        "not json": b"\xff\x00\n{}",
    }[damage]
    path.write_bytes(bad)
    again = Tokenizer.from_gguf(llama_metadata, folder, "some/key: of any kind")
    assert path.read_bytes() == good
    for parse_special in (True, False):
        ids = first.encode(text, parse_special=parse_special)
        assert again.encode(text, parse_special=parse_special) == ids
        assert again.decode(ids) == first.decode(ids)
    assert again.eos_token_ids == first.eos_token_ids
    assert list(folder.iterdir()) == [path]


def test_cache_is_used(llama_metadata: dict[str, object], tmp_path: Path) -> None:
    """With a cached tokenizer the arrays of the file are not read again."""
    Tokenizer.from_gguf(llama_metadata, tmp_path, "key")
    scores = [0.0] * len(llama_metadata["tokenizer.ggml.scores"])  # type: ignore[arg-type]
    other = Tokenizer.from_gguf(llama_metadata | {"tokenizer.ggml.scores": scores}, tmp_path, "key")
    assert other.encode("the dog") == Tokenizer.from_gguf(llama_metadata).encode("the dog")


def test_cache_that_cannot_be_written(
    llama_metadata: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    tokenizer = Tokenizer.from_gguf(llama_metadata, blocker / "cache", "key")
    assert tokenizer.decode(tokenizer.encode("dog", add_special_tokens=False)) == "dog"
    assert "cannot be" in caplog.text
