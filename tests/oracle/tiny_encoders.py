"""Tiny random encoders, saved as transformers and sentence-transformers save theirs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "cat", "sat", "on", "mat", "moon", "rain", "##s", "##ing")
VOCAB = (*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS)
MAX_POSITIONS = 48


def config(num_labels: int = 2, **more: object) -> BertConfig:
    return BertConfig(
        vocab_size=len(VOCAB),
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=MAX_POSITIONS,
        num_labels=num_labels,
        **more,
    )


def make_encoder(seed: int = 7) -> BertModel:
    """Random weights, large enough that a wrong one shows."""
    torch.manual_seed(seed)
    return _stirred(BertModel(config()))  # type: ignore[return-value]


def make_classifier(
    num_labels: int, seed: int = 8, **more: object
) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return _stirred(BertForSequenceClassification(config(num_labels, **more)))  # type: ignore[return-value]


def _stirred(model: torch.nn.Module) -> torch.nn.Module:
    """A new model's biases are zero and its norms one, which would hide that they are left out."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return model.eval()


def save(model: BertModel | BertForSequenceClassification, folder: Path) -> Path:
    model.save_pretrained(folder)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def save_sentence_parts(
    folder: Path, pooling: str = "pooling_mode_mean_tokens", max_seq_length: int = 40
) -> Path:
    """The files that sentence-transformers puts beside the model."""
    modules = ["Transformer", "Pooling", "Normalize"]
    listing = [
        {"idx": index, "path": f"{index}_{name}" if index else "", "type": f"x.models.{name}"}
        for index, name in enumerate(modules)
    ]
    (folder / "1_Pooling").mkdir()
    _write(folder / "modules.json", listing)
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, pooling: True})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length})
    _write(folder / "config_sentence_transformers.json", {"prompts": {"query": "the query. "}})
    return folder


def make_tokenizer() -> Tokenizer:
    """WordPiece as BERT's, cut and padded by default, as published files are."""
    vocab = {word: index for index, word in enumerate(VOCAB)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return tokenizer


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
