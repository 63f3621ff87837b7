"""Hugging Face folders: single file, shards, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from headrace.core.errors import MissingTensor, ModelFileError, UnsupportedFormat
from headrace.weights.safetensors import SafetensorsReader

INDEX = "model.safetensors.index.json"
CONFIG: dict[str, Any] = {"model_type": "qwen2", "num_hidden_layers": 2}
OUTSIDE = '"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 240]}'
ONE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}


def folder(
    path: Path, tensors: Mapping[str, NDArray[Any]] | None = None, config: object = None
) -> Path:
    (path / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    if tensors is not None:
        save_file(dict(tensors), path / "model.safetensors")
    return path


def sharded(path: Path, weight_map: object) -> Path:
    folder(path)
    save_file(ONE, path / "one.safetensors")
    save_file({"b": np.ones(4, np.float16)}, path / "two.safetensors")
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return path


def test_reads_the_three_float_formats_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 7)
    folder(tmp_path)
    save_torch_file(
        {
            "f32": values,
            "f16": values.half(),
            "bf16": values.bfloat16(),
            "vector": values[0].clone(),
        },
        tmp_path / "model.safetensors",
    )
    reader = SafetensorsReader(tmp_path)
    assert (reader.kind, reader.architecture) == ("safetensors", "qwen2")
    assert reader.metadata["num_hidden_layers"] == 2
    assert reader.names() == ("bf16", "f16", "f32", "vector")
    for name, expected in (
        ("f32", values),
        ("f16", values.half()),
        ("bf16", values.bfloat16()),
        ("vector", values[0]),
    ):
        tensor = reader.tensor(name)
        assert tensor.format.name == ("f32" if name == "vector" else name)
        assert np.array_equal(tensor.dequantize(), expected.float().numpy())
        assert not tensor.data.flags.writeable


def test_reads_shards(tmp_path: Path) -> None:
    path = sharded(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    reader = SafetensorsReader(path)
    assert reader.names() == ("a", "b")
    assert np.array_equal(reader.tensor("a").dequantize(), ONE["a"])
    assert np.array_equal(reader.tensor("b").dequantize(), np.ones(4))


def test_a_scalar_becomes_a_vector_of_one(tmp_path: Path) -> None:
    reader = SafetensorsReader(folder(tmp_path, {"a": np.array(2.5, dtype=np.float32)}))
    assert reader.tensor("a").shape == (1,)


def test_tensors_outlive_release_and_close(tmp_path: Path) -> None:
    reader = SafetensorsReader(folder(tmp_path, ONE))
    held = reader.tensor("a")
    reader.release()
    assert np.array_equal(held.dequantize(), ONE["a"])
    reader.close()
    reader.close()
    reader.release()
    assert np.array_equal(held.dequantize(), ONE["a"])
    with pytest.raises(MissingTensor):
        reader.tensor("a")


def test_a_text_model_of_a_family_has_the_family_s_architecture(tmp_path: Path) -> None:
    path = folder(tmp_path, ONE, {"model_type": "gemma3_text"})
    assert SafetensorsReader(path).architecture == "gemma3"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "does not name its model_type"),
        ({"model_type": 3}, "does not name its model_type"),
        ([1], "holds an array, and must hold an object"),
    ],
)
def test_bad_configs_are_refused(tmp_path: Path, config: object, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        SafetensorsReader(folder(tmp_path, ONE, config))


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_not_json_is_refused(tmp_path: Path, raw: bytes) -> None:
    folder(tmp_path, ONE)
    (tmp_path / "config.json").write_bytes(raw)
    with pytest.raises(ModelFileError, match=r"config\.json is not JSON"):
        SafetensorsReader(tmp_path)


def test_folders_without_a_part_say_which(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"has no config\.json"):
        SafetensorsReader(tmp_path)
    folder(tmp_path)
    with pytest.raises(ModelFileError, match=r"has neither model\.safetensors nor"):
        SafetensorsReader(tmp_path)
    for name in ("a", "b"):
        save_file({name: ONE["a"]}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ModelFileError, match=r"but 2 files: a\.safetensors, b\.safetensors"):
        SafetensorsReader(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(UnsupportedFormat, match="pickled weights, which can run code"):
        SafetensorsReader(tmp_path)


@pytest.mark.parametrize(
    "shard",
    [
        "../one.safetensors",
        "/etc/one.safetensors",
        "sub/one.safetensors",
        "..\\one.safetensors",
        "one.bin",
        "",
        "..",
        "a\0.safetensors",
        7,
        None,
    ],
)
def test_an_index_cannot_leave_its_folder(tmp_path: Path, shard: object) -> None:
    with pytest.raises(ModelFileError, match=r"allowed: the name of a \.safetensors file"):
        SafetensorsReader(sharded(tmp_path, {"a": shard}))


@pytest.mark.parametrize("weight_map", [None, {}, [], "one.safetensors"])
def test_an_index_without_a_map_is_refused(tmp_path: Path, weight_map: object) -> None:
    with pytest.raises(ModelFileError, match="has no weight_map"):
        SafetensorsReader(sharded(tmp_path, weight_map))


def test_missing_shards_are_named(tmp_path: Path) -> None:
    path = sharded(tmp_path, {"a": "one.safetensors", "c": "three.safetensors"})
    with pytest.raises(ModelFileError, match=r"lacks 1 of 2 shards .*: three\.safetensors"):
        SafetensorsReader(path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path: Path) -> None:
    path = sharded(tmp_path, {"a": "one.safetensors", "c": "two.safetensors"})
    with pytest.raises(MissingTensor, match=r"two\.safetensors.* has no tensor 'c'"):
        SafetensorsReader(path)


def test_a_tensor_is_read_from_the_shard_the_index_names(tmp_path: Path) -> None:
    path = sharded(tmp_path, {"a": "two.safetensors", "b": "two.safetensors"})
    save_file({"a": np.zeros(2, np.float32), "b": np.ones(4)}, path / "two.safetensors")
    assert SafetensorsReader(path).tensor("a").shape == (2,)


@pytest.mark.parametrize(
    "array", [np.zeros(3, np.int64), np.zeros(3, np.float64), np.zeros((0, 3), np.float32)]
)
def test_other_dtypes_are_refused_when_they_are_wanted(tmp_path: Path, array: NDArray[Any]) -> None:
    reader = SafetensorsReader(folder(tmp_path, ONE | {"odd": array}))
    assert reader.tensor("a").shape == (2, 3)
    with pytest.raises(UnsupportedFormat, match=r"'odd' is .*; headrace reads F32, F16, BF16"):
        reader.tensor("odd")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path, ONE)
    whole = (path / "model.safetensors").read_bytes()
    for size in range(len(whole)):
        (path / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match="truncated or damaged"):
            SafetensorsReader(path)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 1 << 60]},
        {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]},
        {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 24]},
        {"dtype": "X99", "shape": [2, 3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]},
        {"dtype": "F32", "shape": [2, 3]},
        "nonsense",
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, entry: object) -> None:
    header = json.dumps({"a": entry}).encode()
    raw = len(header).to_bytes(8, "little") + header + bytes(24)
    (folder(tmp_path) / "model.safetensors").write_bytes(raw)
    with pytest.raises(ModelFileError, match="truncated or damaged"):
        SafetensorsReader(tmp_path)


def test_a_tensor_named_twice_cannot_reach_outside(tmp_path: Path) -> None:
    sound = '"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}'
    for header in (f"{{{sound}, {OUTSIDE}}}", f"{{{OUTSIDE}, {sound}}}"):
        raw = len(header).to_bytes(8, "little") + header.encode() + bytes(24)
        (folder(tmp_path) / "model.safetensors").write_bytes(raw)
        try:
            reader = SafetensorsReader(tmp_path)
        except ModelFileError:
            continue
        assert reader.tensor("a").shape == (2, 3)


def test_a_header_length_beyond_the_file_is_refused(tmp_path: Path) -> None:
    (folder(tmp_path) / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelFileError, match="truncated or damaged"):
        SafetensorsReader(tmp_path)
