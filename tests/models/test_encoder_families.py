"""Encoders beside BERT: each against transformers, with its head and its tokenizer."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedModel

from headrace.convert.folder_source import FolderSource
from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.embedder import Embedder
from headrace.executor.encoder_runner import EncoderRunner, EncoderSequence
from headrace.executor.load_encoder import load_encoder
from headrace.models.distilbert import DistilBert
from headrace.models.registry import encoder_class, model_class
from headrace.models.roberta import Roberta
from headrace.ops.protocol import Ops
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.weights.weight_reader import open_weights
from kernels.conftest import make_cpu_ops
from oracle.tiny_encoders import (
    FAMILIES,
    MAX_POSITIONS,
    ROBERTA_PADDING,
    VOCAB,
    make_byte_tokenizer,
    make_family,
    make_unigram_tokenizer,
    save,
)

FLOAT32 = 2e-5
"""As in test_encoder_parity."""
LENGTHS = (1, 7, MAX_POSITIONS, 16, 33)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def encoder(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make_family(request.param)


@pytest.fixture(scope="module")
def folder(encoder: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(encoder, tmp_path_factory.mktemp("encoder"))


def sequences() -> list[EncoderSequence]:
    """Some with padding among their tokens, as a text that says so or given ids have."""
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, len(VOCAB), length).tolist() for length in LENGTHS]
    rows[1][2] = rows[3][0] = rows[3][15] = ROBERTA_PADDING
    return [EncoderSequence(row) for row in rows]


def open_runner(folder: Path, ops: Ops) -> EncoderRunner:
    with closing(open_weights(folder)) as reader:
        model = encoder_class(reader.architecture)
        config = model.config_from_huggingface(reader.metadata)
        assert config.max_tokens == MAX_POSITIONS
        return EncoderRunner(model(ops, config, load_encoder(config, reader, ops, "f32")))


@torch.no_grad()
def states(model: PreTrainedModel, sequence: EncoderSequence) -> np.ndarray:
    given = torch.tensor([list(sequence.token_ids)])
    return model(given).last_hidden_state[0].numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("device", ["float64", "generic", "avx512"])
def test_vectors_are_those_of_transformers(
    encoder: PreTrainedModel, folder: Path, device: str
) -> None:
    ops = ReferenceOps("float64") if device == "float64" else make_cpu_ops(device)
    runner = open_runner(folder, ops)
    for pooling in ("mean", "cls"):
        vectors = runner.vectors(sequences(), [pooling] * len(LENGTHS))  # type: ignore[list-item]
        for sequence, vector in zip(sequences(), vectors, strict=True):
            expected = states(encoder, sequence)
            expected = expected.mean(0) if pooling == "mean" else expected[0]
            np.testing.assert_allclose(vector, expected, atol=FLOAT32)


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@torch.no_grad()
def test_heads_are_those_of_transformers(tmp_path: Path, model_type: str, num_labels: int) -> None:
    model = make_family(model_type, num_labels)
    outputs = open_runner(save(model, tmp_path), make_cpu_ops("generic")).outputs(sequences())
    given = [torch.tensor([list(sequence.token_ids)]) for sequence in sequences()]
    expected = torch.cat([model(ids).logits for ids in given]).numpy()
    np.testing.assert_allclose(outputs, expected, atol=FLOAT32)


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta", "distilbert"])
def test_heads_of_the_training_are_left_out(tmp_path: Path, model_type: str) -> None:
    """A checkpoint with a pooler, or the head that guesses words, gives the same vectors."""
    model = make_family(model_type)
    safetensors = pytest.importorskip("safetensors.torch")
    save(model, tmp_path)
    expected = open_runner(tmp_path, ReferenceOps()).vectors(sequences(), ["mean"] * len(LENGTHS))
    prefix, head = {"distilbert": ("distilbert.", "vocab_transform.weight")}.get(
        model_type, ("roberta.", "lm_head.dense.weight")
    )
    tensors = {prefix + name: tensor.clone() for name, tensor in model.state_dict().items()}
    safetensors.save_file({**tensors, head: torch.ones(2, 2)}, tmp_path / "model.safetensors")
    found = open_runner(tmp_path, ReferenceOps()).vectors(sequences(), ["mean"] * len(LENGTHS))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("model_type", "tokenizer"),
    [("roberta", make_byte_tokenizer()), ("xlm-roberta", make_unigram_tokenizer())],
)
@torch.no_grad()
def test_pairs_are_read_as_transformers_reads_them(
    tmp_path: Path, model_type: str, tokenizer: Backend
) -> None:
    """A reranker of this family: special tokens between two texts, cut texts, one type."""
    model = make_family(model_type, 1)
    model.config.vocab_size = max(tokenizer.get_vocab_size(), len(VOCAB))
    model.resize_token_embeddings(model.config.vocab_size)
    save(model, tmp_path, tokenizer)
    pairs = [
        ("the cat", "rain s"),
        ("Größe <pad> 东京", "the mat"),
        ("the cat " * 9, "a mat. " * 2),
    ]
    tokenizer.no_truncation()
    with Embedder(tmp_path, num_threads=1, encoder_dtype="f32") as embedder:
        assert embedder.max_model_len == MAX_POSITIONS
        for keep in (None, 20):
            if keep:
                tokenizer.enable_truncation(keep)
            encoded = [tokenizer.encode(*pair).ids for pair in pairs]
            expected = [model(torch.tensor([ids])).logits[0].numpy() for ids in encoded]
            outputs = embedder.classify(pairs, is_raw=True, truncate_prompt_tokens=keep)
            np.testing.assert_allclose(outputs, expected, atol=FLOAT32)


@pytest.mark.parametrize(
    ("model", "model_type", "change", "named"),
    [
        (Roberta, "roberta", {"position_embedding_type": "relative_key_query"}, "relative_key_q"),
        (Roberta, "roberta", {"hidden_act": "gelu_new"}, "hidden_act = 'gelu_new'"),
        (Roberta, "roberta", {"is_decoder": True}, "is_decoder"),
        (DistilBert, "distilbert", {"activation": "relu"}, "activation = 'relu'"),
    ],
)
def test_other_forms_are_refused(
    model: type[Roberta], model_type: str, change: dict[str, object], named: str
) -> None:
    config = {**make_family(model_type).config.to_dict(), **change}
    with pytest.raises(UnsupportedFormat, match=named):
        model.config_from_huggingface(config)


@pytest.mark.parametrize(
    ("model_type", "change", "named"),
    [
        ("roberta", {"pad_token_id": 49}, "pad_token_id = 49"),
        ("roberta", {"pad_token_id": None}, "pad_token_id is absent"),
        ("distilbert", {"dim": "64"}, "dim is '64'"),
    ],
)
def test_numbers_that_cannot_be(model_type: str, change: dict[str, object], named: str) -> None:
    config = {**make_family(model_type).config.to_dict(), **change}
    with pytest.raises(ModelFileError, match=named):
        encoder_class(model_type).config_from_huggingface(config)


def test_unknown_architectures_are_told_which_encoders_there_are() -> None:
    with pytest.raises(UnsupportedFormat, match=r"'modernbert'.*encoders: bert, .*xlm-roberta"):
        model_class("modernbert")


def test_an_encoder_is_not_written_as_gguf(folder: Path) -> None:
    with pytest.raises(UnsupportedFormat, match=r"is an encoder.*encoder_dtype = q8_0"):
        FolderSource(open_weights(folder))
