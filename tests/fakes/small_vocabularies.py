"""Vocabularies trained on the spot, as GGUF metadata, with their references."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from headrace.text.pre_tokenizers import PRE_TOKENIZERS

TRAINING_TEXT = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "def add(first, second):\n    return first + second  # 1234567 and 89",
    "it's we'll they're naïve café Größe 你好 世界 привет мир 😀",
    "   spaces    and\ttabs\n\n\nlines",
) * 4
CONTROLS = ("<s>", "</s>", "<|eot_id|>")
USER_DEFINED = ("<tool>", "[x]")


def byte_level(pre: str, vocab_size: int = 600) -> tuple[dict[str, object], Tokenizer]:
    """GGUF metadata of a byte-level BPE with the pre-tokenizer `pre`, and its reference.

    `vocab_size` is that of the merges; control and other added tokens come after them.
    """
    rule = PRE_TOKENIZERS[pre]
    reference = Tokenizer(models.BPE(ignore_merges=rule.keeps_whole_words))
    reference.normalizer = rule.normalizer()
    reference.pre_tokenizer = rule.pre_tokenizer()
    reference.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    reference.train_from_iterator(TRAINING_TEXT, trainer)
    reference.add_special_tokens([AddedToken(text, special=True) for text in CONTROLS])
    reference.add_tokens([AddedToken(text, normalized=False) for text in USER_DEFINED])
    merges = json.loads(reference.model.__getstate__())["merges"]
    vocab = reference.get_vocab()
    tokens = sorted(vocab, key=lambda token: vocab[token])
    types = [3 if t in CONTROLS else 4 if t in USER_DEFINED else 1 for t in tokens]
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, "[PAD0]", "[PAD1]"],
        "tokenizer.ggml.token_type": [*types, 5, 5],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": vocab["<s>"],
        "tokenizer.ggml.eos_token_id": vocab["</s>"],
    }
    return metadata, reference


def sentencepiece_bpe(
    adds_space_prefix: bool, user_defined: Sequence[str] = USER_DEFINED
) -> tuple[dict[str, object], sentencepiece.SentencePieceProcessor]:
    """GGUF metadata of a SentencePiece BPE with byte fallback, and the trained processor."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TRAINING_TEXT),
        model_writer=model,
        model_type="bpe",
        vocab_size=480,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=adds_space_prefix,
        split_by_whitespace=False,
        user_defined_symbols=list(user_defined),
        control_symbols=["<|eot_id|>"],
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [piece.piece for piece in proto.pieces],
        "tokenizer.ggml.scores": [piece.score for piece in proto.pieces],
        "tokenizer.ggml.token_type": [int(piece.type) for piece in proto.pieces],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": adds_space_prefix,
    }
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model.getvalue())
    return metadata, processor
