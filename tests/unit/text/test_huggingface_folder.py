"""Tokenizers from a Hugging Face folder: what its files say, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from fakes.small_vocabularies import byte_level
from fakes.texts import MIXED_TEXTS
from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.text.detokenizer import IncrementalDetokenizer
from headrace.text.token_bytes import byte_piece
from headrace.text.tokenizer import Tokenizer

CONTROLS = ("<s>", "</s>", "<|eot|>")
UNKNOWN = "<unk>"


def write_json(folder: Path, **files: Any) -> None:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


@pytest.fixture
def llama3_like(tmp_path: Path) -> Path:
    """Byte-level BPE whose added tokens lie beyond the vocabulary, one of them not special."""
    _, backend = byte_level("llama-bpe")
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    backend.add_special_tokens([AddedToken("<|last|>", special=True)])
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", bos)])
    backend.enable_truncation(5)
    backend.enable_padding(length=8)
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def metaspace(scheme: str) -> Backend:
    """A SentencePiece-like BPE that adds its space as `scheme` says."""
    pieces = [UNKNOWN, *map(byte_piece, range(256)), *"▁thedogfxabn", "▁t", "he", "▁the", "do"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("d", "o")]
    model = models.BPE(
        vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token=UNKNOWN
    )
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    backend.add_special_tokens([AddedToken(text, special=True) for text in CONTROLS[:2]])
    backend.add_special_tokens([AddedToken(CONTROLS[2], special=True, rstrip=True)])
    return backend


@pytest.mark.parametrize("text", MIXED_TEXTS)
def test_ids_equal_transformers(llama3_like: Path, text: str) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(llama3_like / "tokenizer.json"))
    ours = Tokenizer.from_huggingface(llama3_like)
    text = f"{text}</s> <think>x"
    ids = ours.encode(text, parse_special=True)
    assert ids == theirs.encode(text, truncation=False)
    assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
    plain = ours.encode(text, add_special_tokens=False)
    assert ours.special_token_ids.isdisjoint(plain)
    assert ours.decode(plain) == text
    assert ours.id_of("<think>") in plain


def test_what_the_files_say(llama3_like: Path) -> None:
    write_json(
        llama3_like,
        tokenizer_config={
            "bos_token": {"content": "<s>"},
            "eos_token": "</s>",
            "pad_token": None,
            "chat_template": "from config",
        },
        special_tokens_map={"unk_token": "<s>", "eos_token": "<s>"},
    )
    tokenizer = Tokenizer.from_huggingface(llama3_like)
    expected = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<s>"}
    assert tokenizer.special_tokens == expected
    assert tokenizer.adds_bos
    assert tokenizer.chat_template == "from config"
    assert tokenizer.eos_token_ids == {tokenizer.id_of("</s>"), tokenizer.id_of("<|eot_id|>")}
    (llama3_like / "chat_template.jinja").write_text("from its own file", encoding="utf-8")
    assert Tokenizer.from_huggingface(llama3_like).chat_template == "from its own file"


@pytest.mark.parametrize("eos", [7, [7, 8]])
@pytest.mark.parametrize("file", ["generation_config", "config"])
def test_end_tokens_of_the_generation_config(llama3_like: Path, file: str, eos: Any) -> None:
    """A list that the model's makers give is complete: no name is guessed."""
    write_json(llama3_like, **{file: {"eos_token_id": eos}})
    tokenizer = Tokenizer.from_huggingface(llama3_like)
    assert tokenizer.eos_token_ids == set(eos if isinstance(eos, list) else [eos])


def test_named_templates(llama3_like: Path) -> None:
    named = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    write_json(llama3_like, tokenizer_config={"chat_template": named})
    assert Tokenizer.from_huggingface(llama3_like).chat_template == "D"


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_pieces_join_to_the_whole(tmp_path: Path, scheme: str) -> None:
    metaspace(scheme).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_huggingface(tmp_path)
    text = "the dog</s>and the<|eot|>  fox é<s>"
    whole = tokenizer.encode(text, add_special_tokens=False, parse_special=True)
    pieces = [("the dog", False), ("</s>", True), ("and the", False), ("<|eot|>", True)]
    assert tokenizer.encode_pieces([*pieces, ("  fox é", False), ("<s>", True)]) == whole
    assert tokenizer.decode(tokenizer.encode("the  dog é")) == "the  dog é"


def test_word_pieces_decode_whole_texts(tmp_path: Path) -> None:
    """Encoders' vocabularies, such as BERT's, are read too, but cannot be streamed."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "dog", "##s", "run"]
    vocab = {word: i for i, word in enumerate(words)}
    backend = Backend(models.WordPiece(vocab=vocab, unk_token=words[1]))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.add_special_tokens(words[:4])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_huggingface(tmp_path)
    ids = tokenizer.encode("The dogs run [SEP]")
    assert ids[:5] == [2, 4, 5, 6, 7]
    assert 3 not in ids[1:-1]
    assert tokenizer.decode(ids[:5], skip_special_tokens=True) == "the dogs run"
    with pytest.raises(UnsupportedFormat, match="only decodes whole texts"):
        IncrementalDetokenizer(tokenizer)


def test_wrong_folders(tmp_path: Path, llama3_like: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelFileError, match=r"has no tokenizer\.json"):
        Tokenizer.from_huggingface(empty)
    (empty / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelFileError, match="is not a tokenizer"):
        Tokenizer.from_huggingface(empty)
    for text, message in (("{", "not valid JSON"), ("[1]", "holds a list")):
        (llama3_like / "tokenizer_config.json").write_text(text)
        with pytest.raises(ModelFileError, match=message):
            Tokenizer.from_huggingface(llama3_like)
    (llama3_like / "tokenizer_config.json").unlink()
    (llama3_like / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelFileError, match="not UTF-8"):
        Tokenizer.from_huggingface(llama3_like)
