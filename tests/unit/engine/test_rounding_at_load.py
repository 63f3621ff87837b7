"""engine.quantization: layers become float8 as they are read, or one sentence says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.core.config import EngineConfig
from headrace.core.errors import ConfigError
from headrace.engine.started_model import kernels_name, open_rounded, start_model
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.quant.quantize import quantize
from headrace.weights.weight_reader import open_weights
from oracle.driver import Driver, load_model
from oracle.gguf_export import export
from oracle.tiny_models import build, case, save, token_ids

FLOAT8_LOGITS = 0.25
"""Root of the mean square error over the deviation: weights with three bits after the
first give a model this narrow 0.15."""
SETTINGS = EngineConfig(device="reference", quantization="fp8", num_threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build(case("qwen2"), torch.bfloat16)
    return save(model, tmp_path_factory.mktemp("bf16"), torch.bfloat16)


def test_layers_are_rounded_and_nothing_else(folder: Path) -> None:
    plain, rounded = open_weights(folder), open_rounded(folder, SETTINGS)
    assert rounded.names() == plain.names()
    num_rounded = 0
    for name in plain.names():
        before, outline, after = plain.tensor(name), rounded.outline(name), rounded.tensor(name)
        assert (outline.format, outline.shape) == (after.format, after.shape)
        assert outline.nbytes == after.nbytes
        if ".layers." in name and len(before.shape) == 2:
            num_rounded += 1
            wanted = quantize(before.dequantize(), "f8_e4m3")
            np.testing.assert_array_equal(after.data, wanted.data)
        else:
            assert after.format.name == "bf16"
            np.testing.assert_array_equal(after.data, before.data)
    assert num_rounded == 7 * plain.metadata["num_hidden_layers"]  # type: ignore[operator]


def test_the_engine_runs_on_what_was_rounded(folder: Path) -> None:
    started = start_model(folder, SETTINGS, free_bytes=2**31)
    assert kernels_name(started.ops, SETTINGS) == f"{started.ops.name}-fp8"
    given = token_ids()
    found = Driver(started.model).run(given, [50, 25])
    ops = ReferenceOps(np.float32)
    same = Driver(load_model(folder, ops, is_rounded=True)).run(given, [50, 25])
    exact = Driver(load_model(folder, ops)).run(given, [50, 25])
    np.testing.assert_allclose(found, same, atol=1e-4)
    assert 1e-3 < np.sqrt(np.mean((found - exact) ** 2)) / exact.std() < FLOAT8_LOGITS


def test_where_it_would_be_no_use_it_says_so(folder: Path, tmp_path: Path) -> None:
    gguf = export(build(case("qwen2")), tmp_path / "model.gguf", {})
    packed = tmp_path / "packed"
    packed.mkdir()
    config = json.loads((folder / "config.json").read_text())
    quantization = {"quant_method": "awq", "bits": 4, "version": "gemm"}
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))
    (packed / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    for path, device, said in (
        (folder, "cpu", "device cpu has no kernel for float8"),
        (gguf, "reference", "this is a GGUF file"),
        (packed, "reference", "is quantized already"),
    ):
        settings = EngineConfig(device=device, quantization="fp8", num_threads=1)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=said) as caught:
            open_rounded(path, settings)
        assert caught.value.field == "engine.quantization"
