"""The tokenizer of a folder as GGUF keys: the same tokens, and what GGUF cannot say is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from fakes.small_vocabularies import CONTROLS, USER_DEFINED, byte_level, sentencepiece_bpe
from fakes.texts import MIXED_TEXTS
from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.text import tokenizer as text
from headrace.text.gguf_keys import TokenizerKeys, tokenizer_keys
from headrace.text.gguf_tokenizer import build_gguf_tokenizer
from headrace.text.gguf_vocabulary import CONTROL, UNUSED, read_gguf_vocabulary
from headrace.text.gguf_vocabulary import USER_DEFINED as PLAIN
from headrace.text.pre_tokenizers import PRE_TOKENIZERS

FAMILIES = sorted(
    {
        id(rule): name for name, rule in reversed(PRE_TOKENIZERS.items()) if name != "default"
    }.values()
)
VOCAB_SIZE = 610


def folder_of(backend: Tokenizer, folder: Path, **config: Any) -> Path:
    (folder / "tokenizer.json").write_text(backend.to_str())
    special = {"bos_token": "<s>", "eos_token": "</s>", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def check_equal(folder: Path, found: TokenizerKeys) -> text.Tokenizer:
    """Both ways of reading make the same of every text."""
    own = text.Tokenizer.from_huggingface(folder)
    again = text.Tokenizer.from_gguf(found.keys)
    for each in (*MIXED_TEXTS, f"{CONTROLS[2]}hi {USER_DEFINED[0]} x", "a  b"):
        for is_parsed in (False, True):
            ids = own.encode(each, parse_special=is_parsed)
            assert again.encode(each, parse_special=is_parsed) == ids, each
            assert again.decode(ids) == own.decode(ids)
    assert again.bos_token_id == own.bos_token_id
    assert again.eos_token_ids >= own.eos_token_ids
    assert again.chat_template == own.chat_template
    return again


@pytest.mark.parametrize("pre", FAMILIES)
def test_every_family_of_byte_level_vocabularies_is_known_again(pre: str, tmp_path: Path) -> None:
    folder = folder_of(byte_level(pre)[1], tmp_path, chat_template="{{ messages }}")
    found = tokenizer_keys(folder, VOCAB_SIZE)
    assert PRE_TOKENIZERS[str(found.keys["tokenizer.ggml.pre"])] == PRE_TOKENIZERS[pre]
    again = check_equal(folder, found)
    assert again.vocab_size == VOCAB_SIZE
    assert not found.notes


@pytest.mark.parametrize("adds_space_prefix", [True, False])
def test_sentencepiece_scores_come_back_from_the_merges(
    adds_space_prefix: bool, tmp_path: Path
) -> None:
    metadata, reference = sentencepiece_bpe(adds_space_prefix)
    backend = build_gguf_tokenizer(read_gguf_vocabulary(metadata))
    folder = folder_of(backend, tmp_path, unk_token="<unk>")  # noqa: S106
    found = tokenizer_keys(folder, 480)
    assert found.keys["tokenizer.ggml.add_space_prefix"] is adds_space_prefix
    assert found.keys["tokenizer.ggml.token_type"] == metadata["tokenizer.ggml.token_type"]
    check_equal(folder, found)
    again = text.Tokenizer.from_gguf(found.keys)
    for each in MIXED_TEXTS:
        assert again.encode(each, add_special_tokens=False) == reference.EncodeAsIds(each)


def test_ids_without_a_token_are_filled_and_kinds_are_kept(tmp_path: Path) -> None:
    backend = byte_level("qwen2")[1]
    keys = tokenizer_keys(folder_of(backend, tmp_path), VOCAB_SIZE).keys
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == VOCAB_SIZE
    assert tokens[-1] == f"[PAD{VOCAB_SIZE - 1}]"
    assert types[-1] == UNUSED
    assert types[backend.token_to_id(CONTROLS[0])] == CONTROL
    assert types[backend.token_to_id(USER_DEFINED[0])] == PLAIN


def test_a_text_may_end_with_another_token_than_an_answer(tmp_path: Path) -> None:
    """As those of Qwen3-Embedding."""
    backend = byte_level("qwen2")[1]
    last = CONTROLS[2]
    end = (last, backend.token_to_id(last))
    backend.post_processor = processors.TemplateProcessing(f"$A {last}", special_tokens=[end])
    folder = folder_of(backend, tmp_path)
    again = check_equal(folder, tokenizer_keys(folder, VOCAB_SIZE))
    assert again.encode("a")[-1] == end[1]


def test_what_begins_and_ends_an_answer(tmp_path: Path) -> None:
    backend = byte_level("qwen2")[1]
    backend.add_special_tokens(["<|mine|>"])
    ids = [backend.token_to_id(token) for token in ("</s>", "<|eot_id|>", "<|mine|>")]
    folder = folder_of(backend, tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    keys = tokenizer_keys(folder, VOCAB_SIZE).keys
    assert keys["tokenizer.ggml.eos_token_id"] == ids[0]
    assert keys["tokenizer.ggml.eot_token_id"] == ids[2]  # the other is known by its name
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert text.Tokenizer.from_gguf(keys).eos_token_ids >= set(ids)


def test_ends_that_have_no_key_are_told_of(tmp_path: Path) -> None:
    backend = byte_level("qwen2")[1]
    names = [f"<|end {number}|>" for number in range(5)]
    backend.add_special_tokens(names)
    ids = [backend.token_to_id(name) for name in names]
    folder = folder_of(backend, tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    found = tokenizer_keys(folder, VOCAB_SIZE)
    lost = set(ids) - text.Tokenizer.from_gguf(found.keys).eos_token_ids
    assert lost and f"id {min(lost)}" in found.notes[-1] and "stop_token_ids" in found.notes[-1]


def test_a_token_that_swallows_spaces_is_told_of(tmp_path: Path) -> None:
    backend = byte_level("qwen2")[1]
    backend.add_special_tokens([AddedToken("<|end|>", rstrip=True, special=True)])
    (note,) = tokenizer_keys(folder_of(backend, tmp_path), VOCAB_SIZE).notes
    assert "'<|end|>'" in note


def test_an_unknown_way_to_cut_words_is_refused(tmp_path: Path) -> None:
    backend = byte_level("qwen2")[1]
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    with pytest.raises(UnsupportedFormat, match="cuts words as no family"):
        tokenizer_keys(folder_of(backend, tmp_path), VOCAB_SIZE)


def test_another_kind_of_vocabulary_is_refused(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))  # noqa: S106
    with pytest.raises(UnsupportedFormat, match="is a WordPiece vocabulary"):
        tokenizer_keys(folder_of(backend, tmp_path), 2)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = folder_of(byte_level("qwen2")[1], tmp_path)
    with pytest.raises(ModelFileError, match="belongs to another model"):
        tokenizer_keys(folder, 300)
