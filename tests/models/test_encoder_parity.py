"""Tiny encoders and classifiers against transformers, on every implementation of the ops."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForSequenceClassification, BertModel

from headrace.core.engine_config import EncoderDtype
from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.executor.encoder_runner import EncoderRunner, EncoderSequence
from headrace.executor.load_encoder import load_encoder
from headrace.models.bert import Bert
from headrace.ops.protocol import Ops
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.weights.weight_reader import open_weights
from kernels.conftest import ISAS, make_cpu_ops
from oracle.tiny_encoders import MAX_POSITIONS, VOCAB, make_classifier, make_encoder, save

FLOAT32 = 2e-5
"""Sums in another order over three layers; a bias left out changes numbers by 0.1 and more."""
LENGTHS = (1, 7, 48, 16, 33, 2, 48, 17)


@pytest.fixture(scope="module")
def encoder() -> BertModel:
    return make_encoder()


@pytest.fixture(scope="module")
def folder(encoder: BertModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(encoder, tmp_path_factory.mktemp("encoder"))


def sequences() -> list[EncoderSequence]:
    rng = np.random.default_rng(3)
    return [
        EncoderSequence(
            rng.integers(0, len(VOCAB), length).tolist(),
            None if length % 2 else rng.integers(0, 2, length).tolist(),
        )
        for length in LENGTHS
    ]


def open_runner(folder: Path, ops: Ops, dtype: EncoderDtype = "f32") -> EncoderRunner:
    with closing(open_weights(folder)) as reader:
        config = Bert.config_from_huggingface(reader.metadata)
        return EncoderRunner(Bert(ops, config, load_encoder(config, reader, ops, dtype)))


def inputs_of(sequence: EncoderSequence) -> dict[str, torch.Tensor]:
    types = sequence.token_types or [0] * len(sequence.token_ids)
    return {
        "input_ids": torch.tensor([list(sequence.token_ids)]),
        "token_type_ids": torch.tensor([list(types)]),
    }


@torch.no_grad()
def expected_vectors(encoder: BertModel, pooling: str) -> np.ndarray:
    rows = []
    for sequence in sequences():
        states = encoder(**inputs_of(sequence)).last_hidden_state[0]
        rows.append({"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling])
    return torch.stack(rows).numpy()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module", params=("float64", "float32", *ISAS))
def runner(request: pytest.FixtureRequest, folder: Path) -> EncoderRunner:
    name = request.param
    is_reference = name.startswith("float")
    return open_runner(folder, ReferenceOps(name) if is_reference else make_cpu_ops(name))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_those_of_transformers(
    runner: EncoderRunner, encoder: BertModel, pooling: str
) -> None:
    vectors = runner.vectors(sequences(), [pooling] * len(LENGTHS))  # type: ignore[list-item]
    np.testing.assert_allclose(vectors, expected_vectors(encoder, pooling), atol=FLOAT32)


@pytest.mark.parametrize(("dtype", "far"), [("bf16", 1e-4), ("q8_0", 1e-3)])
@pytest.mark.parametrize("isa", ISAS)
def test_rounded_matrices_keep_the_direction(
    folder: Path, encoder: BertModel, isa: str, dtype: EncoderDtype, far: float
) -> None:
    runner = open_runner(folder, make_cpu_ops(isa), dtype)
    vectors = runner.vectors(sequences(), ["mean"] * len(LENGTHS))
    assert cosines(vectors, expected_vectors(encoder, "mean")).min() > 1 - far


@pytest.mark.parametrize("dtype", ["bf16", "q8_0"])
def test_weights_that_cannot_be_rounded(
    tmp_path: Path, encoder: BertModel, dtype: EncoderDtype
) -> None:
    save(encoder, tmp_path)
    safetensors = pytest.importorskip("safetensors.torch")
    tensors = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    name = "encoder.layer.1.output.dense.weight"
    tensors[name][3, 4] = float("nan")
    safetensors.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match=rf"{name}.*{dtype}.*finite.*encoder_dtype = f32"):
        open_runner(tmp_path, ReferenceOps(), dtype)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "q8_0"])
@pytest.mark.parametrize("isa", ISAS)
def test_a_vector_does_not_depend_on_its_neighbours(
    folder: Path, isa: str, dtype: EncoderDtype
) -> None:
    runner = open_runner(folder, make_cpu_ops(isa), dtype)
    whole = runner.vectors(sequences(), ["mean"] * len(LENGTHS))
    many = runner.vectors(sequences() * 20, ["mean"] * len(LENGTHS) * 20)  # several passes
    turned = runner.vectors(sequences()[::-1], ["mean"] * len(LENGTHS))[::-1]
    other_threads = open_runner(folder, make_cpu_ops(isa, 3), dtype)
    assert many.tobytes() == whole.tobytes() * 20
    assert np.ascontiguousarray(turned).tobytes() == whole.tobytes()
    assert other_threads.vectors(sequences(), ["mean"] * len(LENGTHS)).tobytes() == whole.tobytes()
    for sequence, vector in zip(sequences(), whole, strict=True):
        assert runner.vectors([sequence], ["mean"]).tobytes() == vector.tobytes()


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("isa", ["generic", "avx512bf16", "amx"])
def test_outputs_of_a_head_are_those_of_transformers(
    tmp_path: Path, isa: str, num_labels: int
) -> None:
    model = make_classifier(num_labels)
    runner = open_runner(save(model, tmp_path), make_cpu_ops(isa))
    outputs = runner.outputs(sequences())
    np.testing.assert_allclose(outputs, expected_outputs(model, sequences()), atol=FLOAT32)
    assert runner.outputs(sequences()[2:3]).tobytes() == outputs[2].tobytes()


@torch.no_grad()
def expected_outputs(
    model: BertForSequenceClassification, given: Sequence[EncoderSequence]
) -> np.ndarray:
    return torch.cat([model(**inputs_of(sequence)).logits for sequence in given]).numpy()


def test_names_of_older_checkpoints(encoder: BertModel, folder: Path, tmp_path: Path) -> None:
    """`bert.` before every name, and norms that have gamma and beta."""
    tensors = {}
    for name, tensor in encoder.state_dict().items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        tensors["bert." + old.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor.contiguous()
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    ops = make_cpu_ops("generic")
    given = ["mean"] * len(LENGTHS)
    old = open_runner(tmp_path, ops).vectors(sequences(), given)  # type: ignore[arg-type]
    new = open_runner(folder, ops).vectors(sequences(), given)  # type: ignore[arg-type]
    assert old.tobytes() == new.tobytes()


def test_a_tensor_that_nobody_reads_is_refused(encoder: BertModel, tmp_path: Path) -> None:
    save(encoder, tmp_path)
    safetensors = pytest.importorskip("safetensors.torch")
    more = {**encoder.state_dict(), "encoder.layer.0.attention.extra.weight": torch.ones(2, 2)}
    safetensors.save_file(
        {name: tensor.contiguous() for name, tensor in more.items()}, tmp_path / "model.safetensors"
    )
    with pytest.raises(UnsupportedFormat, match=r"attention\.extra\.weight"):
        open_runner(tmp_path, ReferenceOps())


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "relu"},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
    ],
)
def test_other_forms_are_refused(change: dict[str, object]) -> None:
    config = {**make_encoder().config.to_dict(), **change}
    with pytest.raises(UnsupportedFormat, match=next(iter(change))):
        Bert.config_from_huggingface(config)


def test_positions_are_those_of_the_file() -> None:
    assert Bert.config_from_huggingface(make_encoder().config.to_dict()).num_positions == (
        MAX_POSITIONS
    )
