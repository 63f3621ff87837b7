"""Folders of float8: what their codes stand for, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headrace.core.errors import MissingTensor, ModelFileError, UnsupportedFormat
from headrace.quant.quantize import quantize
from headrace.weights.weight_reader import open_weights
from oracle.float8_checkpoints import FLOAT8_KINDS, Float8Kind, pack_float8
from oracle.packed_checkpoints import Packed

BY_NAME = {kind.name: kind for kind in FLOAT8_KINDS}


def matrix(kind: Float8Kind) -> Packed:
    weight = np.random.default_rng(3).normal(0, 0.05, (40, 80)).astype(np.float32)
    return pack_float8(kind, torch.from_numpy(weight))


def folder(path: Path, kind: Float8Kind, tensors: dict[str, Any], **changes: Any) -> Path:
    config = {"model_type": "qwen2", "quantization_config": kind.config | changes}
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


def module(packed: Packed) -> dict[str, torch.Tensor]:
    plain = {"m.bias": torch.ones(40), "norm.weight": torch.ones(8), "m.k_scale": torch.ones(1)}
    return plain | {"m" + suffix: value for suffix, value in packed.tensors.items()}


@pytest.fixture(params=FLOAT8_KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Float8Kind:
    return request.param


def test_the_codes_are_kept_exactly(tmp_path: Path, kind: Float8Kind) -> None:
    packed = matrix(kind)
    reader = open_weights(folder(tmp_path, kind, module(packed)))
    assert reader.names() == ("m.bias", "m.weight", "norm.weight")
    found = reader.tensor("m.weight")
    if kind.block:
        assert found.format.name == "bf16"
        wanted = quantize(packed.floats, "bf16").dequantize()
        np.testing.assert_array_equal(found.dequantize(), wanted)
    else:
        assert found.format.name == "f8_e4m3"
        np.testing.assert_array_equal(found.dequantize(), packed.floats)
    for name in reader.names():
        outline, tensor = reader.outline(name), reader.tensor(name)
        assert (outline.format, outline.shape) == (tensor.format, tensor.shape)
        assert outline.nbytes == tensor.nbytes


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("fp8", {"fmt": "e5m2"}, "fmt 'e5m2'; headrace reads e4m3"),
        ("fp8", {"activation_scheme": "odd"}, "activation_scheme 'odd'"),
        ("fp8-blocks", {"weight_block_size": [128]}, r"weight_block_size \[128\]"),
        ("ct", {"format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized'"),
        ("ct", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "has a sparsity_config"),
    ],
)
def test_variants_that_nothing_here_reads_are_named(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    kind = BY_NAME[name]
    with pytest.raises(UnsupportedFormat, match=message):
        open_weights(folder(tmp_path, kind, module(matrix(kind)), **changes))


@pytest.mark.parametrize(
    ("part", "value"),
    [("weights", {"num_bits": 4}), ("output_activations", {"num_bits": 8}),
     ("input_activations", {"type": "int"})],
)  # fmt: skip
def test_schemes_of_other_widths_are_refused(tmp_path: Path, part: str, value: Any) -> None:
    kind = BY_NAME["ct"]
    group = kind.config["config_groups"]["group_0"]
    groups = {"group_0": group | {part: group.get(part, {}) | value}}
    path = folder(tmp_path, kind, module(matrix(kind)), config_groups=groups)
    with pytest.raises(UnsupportedFormat):
        open_weights(path)


def test_damage_is_named(tmp_path: Path) -> None:
    kind = BY_NAME["fp8-rows"]
    parts = module(matrix(kind))
    codes = parts["m.weight"].view(torch.uint8).clone()
    codes[3, 5] = 0xFF
    cases: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
        ({"m.weight": codes.view(torch.float8_e4m3fn)}, ModelFileError, "no numbers"),
        ({"m.weight_scale": torch.full((40,), torch.nan)}, ModelFileError, "not finite"),
        ({"m.weight_scale": torch.ones(7)}, ModelFileError, r"shape \[7\] for a matrix of \[40"),
        ({"m.weight": torch.ones(3).to(torch.float8_e4m3fn)}, UnsupportedFormat, "not a matrix"),
        ({"m.weight_scale": None}, MissingTensor, r"m\.weight_scale"),
    )
    for changes, error, message in cases:
        tensors = {name: each for name, each in (parts | changes).items() if each is not None}
        with pytest.raises(error, match=message):
            open_weights(folder(tmp_path, kind, tensors)).tensor("m.weight")
