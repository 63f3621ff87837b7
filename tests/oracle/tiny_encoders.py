"""Tiny random encoders, saved as transformers and sentence-transformers save theirs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CamembertConfig,
    DistilBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "cat", "sat", "on", "mat", "moon", "rain", "##s", "##ing")
VOCAB = (*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS)
MAX_POSITIONS = 48
# Positions begin after the padding id.
ROBERTA_PADDING, ROBERTA_POSITIONS = 1, MAX_POSITIONS + 2
FAMILIES: dict[str, type[PreTrainedConfig]] = {
    "bert": BertConfig,
    "camembert": CamembertConfig,
    "distilbert": DistilBertConfig,
    "roberta": RobertaConfig,
    "xlm-roberta": XLMRobertaConfig,
}


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


def make_family(model_type: str, num_labels: int = 0, seed: int = 9) -> PreTrainedModel:
    """A tiny encoder of any family, with a head where there are labels."""
    torch.manual_seed(seed)
    sizes: dict[str, object] = {"vocab_size": len(VOCAB), "max_position_embeddings": MAX_POSITIONS}
    if model_type == "distilbert":
        sizes |= {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96}
    else:
        sizes |= {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
        sizes |= {"intermediate_size": 96}
        if model_type != "bert":
            sizes |= {"type_vocab_size": 1, "max_position_embeddings": ROBERTA_POSITIONS}
    made = FAMILIES[model_type](**sizes, num_labels=num_labels or 2)
    opened = AutoModelForSequenceClassification if num_labels else AutoModel
    return _stirred(opened.from_config(made))  # type: ignore[return-value]


def _stirred(model: torch.nn.Module) -> torch.nn.Module:
    """A new model's biases are zero and its norms one, which would hide that they are left out."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return model.eval()


def save(model: PreTrainedModel, folder: Path, tokenizer: Tokenizer | None = None) -> Path:
    model.save_pretrained(folder)
    (tokenizer or make_tokenizer()).save(str(folder / "tokenizer.json"))
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


def make_byte_tokenizer() -> Tokenizer:
    """Merges of bytes as RoBERTa's, with pairs of one type."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("c", "a"), ("ca", "t"), ("Ġ", "cat")]
    words = [*_ROBERTA_SPECIAL, *alphabet, *(a + b for a, b in merges), "<mask>"]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*_ROBERTA_SPECIAL, "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]), add_prefix_space=False
    )
    tokenizer.enable_truncation(8)
    return tokenizer


def make_unigram_tokenizer() -> Tokenizer:
    """Likely pieces as XLM-RoBERTa's, with ▁ for a space."""
    pieces = [(word, 0.0) for word in _ROBERTA_SPECIAL]
    pieces += [(piece, -2.0) for piece in ("▁the", "▁cat", "▁sat", "▁on", "▁mat", "▁rain", "s")]
    pieces += [("▁", -4.0), *((letter, -6.0) for letter in LETTERS if letter != "s")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*_ROBERTA_SPECIAL, "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.enable_truncation(8)
    return tokenizer


_ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))
