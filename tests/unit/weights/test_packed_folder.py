"""Folders of AWQ, GPTQ and compressed-tensors: what their words stand for, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.weights.weight_reader import WeightReader, open_weights
from oracle.packed_checkpoints import KINDS, Kind, Packed, pack_matrix

BY_NAME = {kind.name: kind for kind in KINDS}
FORMATS = {
    "awq": "q5_0", "gptq": "q4_0", "gptq-zeros": "q5_0", "gptq-v2": "q5_0", "gptq-8": "q8_0",
    "gptq-shuffled": "f16", "ct": "q4_0", "ct-zeros": "q5_0", "ct-8": "q8_0", "ct-int8": "q8_0",
}  # fmt: skip


def matrix(kind: Kind) -> Packed:
    weight = np.random.default_rng(3).normal(0, 0.05, (40, 192)).astype(np.float32)
    return pack_matrix(kind, weight)


def folder(path: Path, kind: Kind, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    config = {"model_type": "qwen2", "quantization_config": kind.config | changes}
    (path / "config.json").write_text(json.dumps(config))
    save_file(tensors, path / "model.safetensors")
    return path


def module(packed: Packed) -> dict[str, torch.Tensor]:
    plain = {"m.bias": torch.ones(40), "norm.weight": torch.ones(8)}
    return plain | {"m" + suffix: value for suffix, value in packed.tensors.items()}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


def test_the_integers_are_kept_exactly(tmp_path: Path, kind: Kind) -> None:
    packed = matrix(kind)
    reader = open_weights(folder(tmp_path, kind, module(packed)))
    assert reader.names() == ("m.bias", "m.weight", "norm.weight")
    found = reader.tensor("m.weight")
    assert (found.format.name, found.shape) == (FORMATS[kind.name], (40, 192))
    if kind.is_shuffled:
        np.testing.assert_array_equal(found.dequantize(), packed.floats.astype(np.float16))
    else:
        np.testing.assert_array_equal(found.dequantize(), packed.floats)
    assert reader.tensor("m.bias").format.name == "f32"


def test_an_outline_has_the_format_and_shape_of_the_tensor(tmp_path: Path, kind: Kind) -> None:
    reader = open_weights(folder(tmp_path, kind, module(matrix(kind))))
    for name in reader.names():
        outline, tensor = reader.outline(name), reader.tensor(name)
        assert (outline.format, outline.shape) == (tensor.format, tensor.shape)
        assert outline.nbytes == tensor.nbytes


def test_a_zero_point_of_zero_comes_round(tmp_path: Path) -> None:
    """Less one it is stored as 15: AutoGPTQ and exllama add the one in four bits."""
    kind = BY_NAME["gptq-zeros"]
    tensors = module(matrix(kind))
    zeros = tensors["m.qzeros"].numpy().view(np.uint32)
    zeros[0, 0] |= np.uint32(15)  # row 0, group 0
    q = tensors["m.qweight"].numpy().view(np.uint32)
    q[0, 0] |= np.uint32(15)  # column 0 of row 0
    reader = open_weights(folder(tmp_path, kind, tensors))
    scale = tensors["m.scales"][0, 0].item()
    assert reader.tensor("m.weight").dequantize()[0, 0] == np.float32(15 * scale)


def test_groups_that_are_written_down_but_in_order_are_no_shuffle(tmp_path: Path) -> None:
    kind = BY_NAME["gptq"]
    reader = open_weights(folder(tmp_path, kind, module(matrix(kind)), desc_act=True))
    assert reader.tensor("m.weight").format.name == "q4_0"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("awq", {"version": "gemv"}, "version 'gemv'; headrace reads gemm"),
        ("awq", {"checkpoint_format": "gemv_fast"}, "checkpoint_format 'gemv_fast'"),
        ("awq", {"backend": "llm-awq"}, "backend 'llm-awq'.*what AutoAWQ writes"),
        ("ct", {"transform_config": {"config_groups": {"R1": {}}}}, "has a transform_config"),
        ("ct", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "has a sparsity_config"),
        ("awq", {"bits": 3}, "bits 3; headrace reads 4"),
        ("gptq", {"bits": 2}, "bits 2; headrace reads 4, 8"),
        ("gptq", {"bits": 4.0}, r"bits 4\.0; headrace reads 4, 8"),
        ("ct", {"config_groups": {"group_0": [1]}}, r"config_groups holds \[1\], not objects"),
        ("ct", {"config_groups": {"group_0": {"weights": [4]}}}, "type None; headrace reads int"),
        ("gptq", {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ("gptq", {"is_marlin_format": True}, "is_marlin_format True; headrace reads False"),
        ("ct", {"format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized'"),
        ("ct", {"quant_method": "fp8"}, "says fp8 .* and no matrix is F8_E4M3"),
        ("ct", {"quant_method": "hqq"}, "quantized with hqq.*awq, gptq, compressed-tensors, fp8"),
        ("ct", {"quant_method": None}, "an unnamed method"),
        ("ct", {"quant_method": "bitsandbytes"}, "quantized with bitsandbytes"),
    ],
)
def test_variants_that_nothing_here_reads_are_named(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    kind = BY_NAME[name]
    with pytest.raises(UnsupportedFormat, match=message):
        open_weights(folder(tmp_path, kind, module(matrix(kind)), **changes))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("weights", "type", "float"),
        ("weights", "num_bits", 2),
        ("input_activations", "type", "float"),
        ("input_activations", "dynamic", False),
        ("output_activations", "type", "int"),
    ],
)
def test_schemes_that_round_more_than_weights_are_refused(
    tmp_path: Path, part: str, key: str, value: object
) -> None:
    kind = BY_NAME["ct"]
    group = kind.config["config_groups"]["group_0"]
    whole = {"type": "int", "num_bits": 8, "dynamic": True} | (group.get(part) or {})
    groups = {"group_0": group | {part: whole | {key: value}}}
    path = folder(tmp_path, kind, module(matrix(kind)), config_groups=groups)
    with pytest.raises(UnsupportedFormat):
        open_weights(path)


def test_activations_that_are_rounded_by_row_are_read(tmp_path: Path) -> None:
    kind = BY_NAME["ct-int8"]
    group = kind.config["config_groups"]["group_0"]
    rounded = {"type": "int", "num_bits": 8, "dynamic": True, "strategy": "token"}
    groups = {"group_0": group | {"input_activations": rounded}}
    reader = open_weights(folder(tmp_path, kind, module(matrix(kind)), config_groups=groups))
    assert reader.tensor("m.weight").format.name == "q8_0"


OLD_FILES = {
    "gptq": ("quantize_config.json", {"bits": 4, "group_size": 64, "desc_act": False}),
    "awq": ("quant_config.json", {"w_bit": 4, "q_group_size": 64, "version": "GEMM"}),
}


@pytest.mark.parametrize("name", OLD_FILES)
def test_old_folders_say_it_in_a_file_of_their_own(tmp_path: Path, name: str) -> None:
    """And call their only file of weights as they like."""
    file, told = OLD_FILES[name]
    packed = matrix(BY_NAME[name])
    folder(tmp_path, BY_NAME[name], module(packed))
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    (tmp_path / file).write_text(json.dumps(told))
    (tmp_path / "model.safetensors").rename(tmp_path / f"{name}_model-4bit-64g.safetensors")
    reader = open_weights(tmp_path)
    assert reader.names() == ("m.bias", "m.weight", "norm.weight")
    np.testing.assert_array_equal(reader.tensor("m.weight").dequantize(), packed.floats)
    (tmp_path / file).write_text(json.dumps(told | {"bits": 3}))
    with pytest.raises(UnsupportedFormat, match="bits 3; headrace reads 4"):
        open_weights(tmp_path)


def test_an_old_file_beside_plain_weights_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    (tmp_path / "quantize_config.json").write_text('{"bits": 4}')
    save_file({"m.weight": torch.ones(2, 32)}, tmp_path / "model.safetensors")
    assert open_weights(tmp_path).tensor("m.weight").format.name == "f32"


def test_a_config_that_is_no_object_names_no_method(tmp_path: Path) -> None:
    path = folder(tmp_path, BY_NAME["ct"], {"a": torch.ones(2)})
    (path / "config.json").write_text('{"model_type": "qwen2", "quantization_config": "odd"}')
    with pytest.raises(UnsupportedFormat, match="an unnamed method"):
        open_weights(path)


def _without(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in tensors.items() if key != name}


def test_damaged_modules_are_refused_by_name(tmp_path: Path) -> None:
    kind = BY_NAME["gptq"]
    good = module(matrix(kind))
    cases = {
        "few-scales": good | {"m.scales": good["m.scales"][:2].contiguous()},
        "no-scales": _without(good, "m.scales"),
        "no-zeros": _without(good, "m.qzeros"),
        "odd-index": good | {"m.g_idx": good["m.g_idx"] + 1},
        "huge": good | {"m.scales": good["m.scales"].float() * 1e9},
        "float-words": good | {"m.qweight": good["m.qweight"].float()},
        "wide-words": good | {"m.qweight": good["m.qweight"].long()},
        "flat-words": good | {"m.qzeros": good["m.qzeros"].reshape(-1)},
    }
    for name, tensors in cases.items():
        (tmp_path / name).mkdir()
        reader = open_weights(folder(tmp_path / name, kind, tensors))
        with pytest.raises(ModelFileError, match=r"'m(\.[a-z]+)?'"):
            reader.tensor("m.weight")


def test_a_shape_of_nothing_and_a_weight_of_floats_are_refused(tmp_path: Path) -> None:
    cases = {
        "ct": {"m.weight_shape": torch.tensor([40, 0])},
        "ct-int8": {"m.weight": torch.ones(40, 192)},
    }
    for name, change in cases.items():
        (tmp_path / name).mkdir()
        kind = BY_NAME[name]
        reader = open_weights(folder(tmp_path / name, kind, module(matrix(kind)) | change))
        with pytest.raises(ModelFileError, match="'m' is damaged"):
            reader.tensor("m.weight")


def test_eight_bits_with_zero_points_need_nine(tmp_path: Path) -> None:
    kind = BY_NAME["gptq-8"]
    tensors = module(matrix(kind))
    tensors["m.qzeros"] -= 1
    reader: WeightReader = open_weights(folder(tmp_path, kind, tensors))
    for read in (reader.tensor, reader.outline):
        with pytest.raises(UnsupportedFormat, match=r"'m\.weight' has 8 bits with zero points"):
            read("m.weight")
