"""Which layers keep bf16 keys: told by their biases, absent ones included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from headrace.executor.uneven_keys import MAX_KEY_BIAS, mark_uneven_keys
from headrace.models.registry import model_class
from headrace.weights.weight_reader import open_weights
from oracle.tiny_models import build, case, save


def marks(folder: Path) -> list[bool]:
    reader = open_weights(folder)
    config = model_class(reader.architecture).config_from_huggingface(reader.metadata)
    return [spec.has_uneven_keys for spec in mark_uneven_keys(config, reader).attention]


@pytest.mark.parametrize("sign", [1, -1])
def test_one_large_value_marks_its_layer_alone(tmp_path: Path, sign: int) -> None:
    model = build(case("qwen2"))
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.bias[3] = sign * (MAX_KEY_BIAS + 1)
        model.model.layers[0].self_attn.q_proj.bias[3] = 10 * MAX_KEY_BIAS
    found = marks(save(model, tmp_path))
    assert found == [index == 1 for index in range(len(found))]


def test_a_model_without_biases_has_none(tmp_path: Path) -> None:
    assert not any(marks(save(build(case("gemma3")), tmp_path)))


def test_layers_of_real_models(qwen05_path: Path) -> None:
    reader = open_weights(qwen05_path)
    config = model_class(reader.architecture).config_from_gguf(reader.metadata)
    marked = mark_uneven_keys(config, reader).attention
    assert [layer for layer, spec in enumerate(marked) if spec.has_uneven_keys] == [0, 2]
