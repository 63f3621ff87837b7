"""Calibration: what the linears of a model multiply, on both devices, under the file's names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace.convert.calibration import WINDOW_TOKENS, Calibration, calibrate
from headrace.core.errors import InvalidParameter
from headrace.ops.table import make_ops
from headrace.weights.names import sources
from headrace.weights.safetensors import SafetensorsReader
from oracle import tiny_models

NAMES = ["q", "k", "v", "o", "gate", "up", "down"]
NUM_TOKENS = WINDOW_TOKENS // 2 + 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = tiny_models.TinyModel("qwen2", tiny_models.case("qwen2").config_class,
                                 {"max_position_embeddings": 1024})  # fmt: skip
    return tiny_models.save(tiny_models.build(tiny), tmp_path_factory.mktemp("tiny"))


def run(folder: Path, device: str) -> Calibration:
    reader = SafetensorsReader(folder)
    found = calibrate(reader, tiny_models.token_ids(NUM_TOKENS), make_ops(device))
    reader.close()
    return found


def test_both_devices_measure_every_matrix(folder: Path) -> None:
    reference, cpu = run(folder, "reference"), run(folder, "cpu")
    layers = range(cpu.num_layers)
    wanted = {"head", "embed", *(f"layers.{i}.{name}" for i in layers for name in NAMES)}
    assert set(cpu.importance) == set(reference.importance) == wanted
    assert cpu.num_tokens == NUM_TOKENS
    for name, exact in reference.importance.items():
        np.testing.assert_allclose(cpu.importance[name], exact, rtol=0.1, err_msg=name)


def test_the_first_layer_s_input_is_its_norm_of_the_embeddings(folder: Path) -> None:
    reader = SafetensorsReader(folder)
    table = reader.tensor("model.embed_tokens.weight").dequantize().astype(np.float64)
    norm = reader.tensor("model.layers.0.input_layernorm.weight").dequantize()
    reader.close()
    rows = table[tiny_models.token_ids(NUM_TOKENS)]
    x = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-6) * norm
    found = run(folder, "reference").importance
    np.testing.assert_allclose(found["layers.0.q"], (x**2).mean(axis=0), rtol=1e-4)
    assert np.array_equal(found["layers.0.q"], found["layers.0.v"])


def test_windows_are_contexts_of_their_own(folder: Path) -> None:
    """Two windows of the same tokens measure what one does."""
    ids = tiny_models.token_ids(WINDOW_TOKENS)
    reader, ops = SafetensorsReader(folder), make_ops("reference")
    one, two = calibrate(reader, ids, ops), calibrate(reader, ids * 2, ops)
    reader.close()
    for name, once in one.importance.items():
        np.testing.assert_allclose(two.importance[name], once, rtol=1e-5)


def test_names_are_those_of_the_file(folder: Path) -> None:
    found = run(folder, "cpu")
    named = found.of_files(sources("qwen2", "gguf", found.num_layers, {}))
    assert np.array_equal(named["blk.2.ffn_down.weight"], found.importance["layers.2.down"])
    assert "output.weight" in named


def test_a_text_that_is_too_short_is_refused(folder: Path) -> None:
    reader = SafetensorsReader(folder)
    with pytest.raises(InvalidParameter, match="at least 128 tokens"):
        calibrate(reader, [1, 2, 3], make_ops("cpu"))
    reader.close()
