"""Tokenizers of the real models, and the tokenizers they are held against."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from fakes.real_tokenizers import real_tokenizer
from headrace.text.tokenizer import Tokenizer
from headrace.weights.gguf import GgufReader

Metadata = Mapping[str, object]


@pytest.fixture(scope="session")
def qwen_metadata(qwen05_path: Path) -> Metadata:
    return GgufReader(qwen05_path).metadata


@pytest.fixture(scope="session")
def gemma_metadata(gemma_path: Path) -> Metadata:
    return GgufReader(gemma_path).metadata


@pytest.fixture(scope="session")
def qwen(qwen05_path: Path) -> Tokenizer:
    return real_tokenizer(qwen05_path)


@pytest.fixture(scope="session")
def gemma(gemma_path: Path) -> Tokenizer:
    return real_tokenizer(gemma_path)


@pytest.fixture(scope="session")
def qwen_reference(qwen_metadata: Metadata) -> PreTrainedTokenizerBase:
    """transformers' own Qwen2Tokenizer over the file's vocabulary.

    Not its GGUF conversion, which leaves out the NFC form that the class and the published
    tokenizer.json have.
    """
    tokens, types = (
        qwen_metadata["tokenizer.ggml.tokens"],
        qwen_metadata["tokenizer.ggml.token_type"],
    )
    merges = qwen_metadata["tokenizer.ggml.merges"]
    assert isinstance(tokens, list)
    assert isinstance(types, list)
    assert isinstance(merges, list)
    tokenizer = Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=[tuple(merge.split(" ")) for merge in merges],
    )
    pairs = list(zip(tokens, types, strict=True))
    special = [AddedToken(t, normalized=False, special=True) for t, kind in pairs if kind == 3]
    tokenizer.add_tokens(special, special_tokens=True)
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, kind in pairs if kind == 4])
    tokenizer.chat_template = qwen_metadata["tokenizer.chat_template"]
    return tokenizer


@pytest.fixture(scope="session")
def gemma_reference(gemma_metadata: Metadata) -> sentencepiece.SentencePieceProcessor:
    """Google's sentencepiece with the file's pieces, as Gemma was trained."""
    tokens, types, scores = (
        gemma_metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores")
    )
    assert isinstance(tokens, list)
    assert isinstance(types, list)
    assert isinstance(scores, list)
    model = sentencepiece_model_pb2.ModelProto()
    for text, kind, score in zip(tokens, types, scores, strict=True):
        piece = model.pieces.add()
        piece.piece, piece.score = text.replace(" ", "▁"), score
        piece.type = 2 if text == "<unk>" else kind  # sentencepiece wants one UNKNOWN
    model.trainer_spec.model_type = 2  # BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(tokens)
    model.trainer_spec.pad_piece = "<pad>"
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model.SerializeToString())
    return processor
