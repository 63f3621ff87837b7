"""open_weights: the right reader for a path, or what to give instead."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fakes.gguf_file import GgufFile
from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.quant.quantize import quantize
from headrace.weights.weight_reader import WeightReader, open_weights


def test_a_gguf_file_is_known_by_its_magic(tmp_path: Path) -> None:
    path = tmp_path / "blob-without-suffix"
    path.write_bytes(GgufFile().add("a", quantize(np.ones((1, 32)), "q8_0")).to_bytes())
    reader: WeightReader = open_weights(path)
    assert (reader.kind, reader.path, reader.names()) == ("gguf", path, ("a",))


def test_a_folder_is_a_hugging_face_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    reader: WeightReader = open_weights(tmp_path)
    assert (reader.kind, reader.architecture) == ("safetensors", "llama")


def test_anything_else_says_what_to_give(tmp_path: Path) -> None:
    single = tmp_path / "model.safetensors"
    save_file({"a": np.ones(3, np.float32)}, single)
    with pytest.raises(UnsupportedFormat, match=r"one safetensors file. Give its folder"):
        open_weights(single)
    (tmp_path / "weights.bin").write_bytes(b"PK\3\4 zipped")
    with pytest.raises(UnsupportedFormat, match="is a zip archive"):
        open_weights(tmp_path / "weights.bin")
    with pytest.raises(ModelFileError, match="does not exist"):
        open_weights(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match="neither a file nor a folder"):
        open_weights(Path("/dev/null"))
