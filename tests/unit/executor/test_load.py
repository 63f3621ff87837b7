"""Loading: what a file must hold, what it may hold, what it must not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from headrace.core.errors import MissingTensor, ModelFileError, UnsupportedFormat
from headrace.executor.load import load_weights
from headrace.models.registry import model_class
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.weights.weight_reader import open_weights
from oracle import transformers_logits
from oracle.driver import Driver, load_model
from oracle.tiny_models import build, case, save, token_ids

Tensors = dict[str, np.ndarray]
LOGITS = 1e-4
"""Float32 sums in another order."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(build(case("llama")), tmp_path)


def change(folder: Path, edit: Callable[[Tensors], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def set_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def load(folder: Path) -> None:
    load_model(folder, ReferenceOps(np.float32))


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change(folder, lambda tensors: tensors.pop("model.layers.1.mlp.down_proj.weight"))
    with pytest.raises(MissingTensor, match=r"layers\.1\.mlp\.down_proj"):
        load(folder)


def test_a_tensor_nobody_reads_is_refused(folder: Path) -> None:
    extra = np.zeros(4, np.float32)
    change(folder, lambda tensors: tensors.update({"model.layers.0.mlp.router.weight": extra}))
    with pytest.raises(UnsupportedFormat, match="router"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.input_layernorm.weight",
        "model.norm.weight",
        "model.embed_tokens.weight",
        "lm_head.weight",
    ],
)
def test_a_shape_that_differs_from_the_config_is_refused(folder: Path, name: str) -> None:
    change(folder, lambda tensors: tensors.update({name: tensors[name][:-16].copy()}))
    with pytest.raises(ModelFileError, match=r"shape.*config says"):
        load(folder)


def test_an_untied_head_must_be_there(folder: Path) -> None:
    change(folder, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(MissingTensor, match="lm_head"):
        load(folder)
    set_config(folder, tie_word_embeddings=True)
    load(folder)


def test_biases_a_llama_file_has_are_used(tmp_path: Path) -> None:
    model = build(case("qwen2"))  # llama with biases, under another name
    expected = transformers_logits.logits(model, token_ids(20))
    folder = save(model, tmp_path)
    set_config(folder, model_type="llama")
    driver = Driver(load_model(folder, ReferenceOps(np.float32)))
    np.testing.assert_allclose(driver.run(token_ids(20), [20]), expected, atol=LOGITS)


def test_the_text_half_of_an_image_and_text_model(tmp_path: Path) -> None:
    model = build(case("gemma3"))
    expected = transformers_logits.logits(model, token_ids(40))
    folder = save(model, tmp_path)

    def nest(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[f"language_model.{name}"] = tensors.pop(name)
        tensors["vision_tower.patch.weight"] = np.zeros((4, 4), np.float32)

    change(folder, nest)
    text = json.loads((folder / "config.json").read_text())
    nested = {"model_type": "gemma3", "text_config": text}
    (folder / "config.json").write_text(json.dumps(nested))
    driver = Driver(load_model(folder, ReferenceOps(np.float32)))
    np.testing.assert_allclose(driver.run(token_ids(40), [40]), expected, atol=LOGITS)


def test_layers_with_equal_rope_share_a_table(tmp_path: Path) -> None:
    model = load_model(save(build(case("gemma3")), tmp_path), ReferenceOps(np.float32))
    assert len({id(table) for table in model.weights.ropes}) == 2


def test_progress_counts_layers(folder: Path) -> None:
    reader = open_weights(folder)
    model = model_class(reader.architecture)
    config = model.config_from_huggingface(reader.metadata)
    seen: list[tuple[int, int]] = []
    load_weights(
        model, config, reader, ReferenceOps(np.float32), 64, lambda *done: seen.append(done)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_mixture_is_refused_where_nothing_runs_it(tmp_path: Path) -> None:
    class PlainOps(ReferenceOps):
        has_mixtures = False

    folder = save(build(case("qwen3-moe")), tmp_path)
    with pytest.raises(UnsupportedFormat, match=r"qwen3_?moe is a mixture .* engine\.device = cpu"):
        load_model(folder, PlainOps(np.float32))
