"""A folder written as GGUF is the same model: beside the gguf package's own writer, and in logits.

The other writer (oracle.gguf_export) takes names from the gguf package's table and keys from
llama.cpp's converter, so that agreement with it is agreement with what llama.cpp reads.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from fakes.small_vocabularies import byte_level
from headrace.convert.folder_source import FolderSource
from headrace.convert.format_plan import plan_formats
from headrace.convert.gguf_source import GgufSource
from headrace.convert.quantize_file import Rounding, quantize_file
from headrace.core.errors import MissingTensor, ModelFileError, UnsupportedFormat
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.weights.gguf import GgufReader
from headrace.weights.weight_reader import open_weights
from oracle.driver import Driver, load_model
from oracle.gguf_export import export
from oracle.tiny_models import TinyModel, build, case, save, token_ids

SAME_LOGITS = 5e-5
"""Numbers of GGUF are float32, rope factors too; a wrong row order moves logits by 1."""

PLAIN = (
    "llama", "llama-tied", "llama3-rope", "llama-linear-rope", "llama-yarn", "llama-dynamic-rope",
    "llama-one-kv-head", "llama-own-head-size", "mistral", "mixtral", "qwen2-moe", "qwen3-moe",
    "qwen2", "qwen2-tied", "qwen3", "gemma2", "gemma3", "gemma3-long", "phi3", "phi3-window",
    "phi3-longrope", "phi4-mini",
)  # fmt: skip
EXPORTED = tuple(name for name in PLAIN if name not in ("llama-dynamic-rope", "mistral"))
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def sayable(tiny: TinyModel) -> TinyModel:
    """The case without what GGUF has no key for."""
    changes = dict(tiny.changes)
    if tiny.name.startswith("gemma"):
        changes["query_pre_attn_scalar"] = changes["head_dim"]
    return replace(tiny, changes=changes)


def with_tokenizer(folder: Path) -> Path:
    (folder / "tokenizer.json").write_text(byte_level("qwen2", vocab_size=300)[1].to_str())
    special = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages[0] }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def folder_of(tiny: TinyModel, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    return with_tokenizer(save(build(tiny, dtype), folder, dtype))


def convert(source: Path, path: Path, to: str) -> Path:
    reader = open_weights(source)
    try:
        given = GgufSource(reader) if isinstance(reader, GgufReader) else FolderSource(reader)
        return quantize_file(given, Rounding(plan_formats(given.tensors, to)), path).path
    finally:
        reader.close()


def logits(path: Path) -> np.ndarray:
    return Driver(load_model(path, ReferenceOps(np.float32))).run(token_ids(), [33, 1])


@pytest.mark.parametrize("name", PLAIN)
def test_the_file_answers_as_the_folder(name: str, tmp_path: Path) -> None:
    folder = folder_of(sayable(case(name)), tmp_path)
    path = convert(folder, tmp_path / "model.gguf", "f32")
    np.testing.assert_allclose(logits(path), logits(folder), atol=SAME_LOGITS)


@pytest.mark.parametrize("to", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_halves_stay_halves(name: str, to: str, tmp_path: Path) -> None:
    folder = folder_of(sayable(case(name)), tmp_path, DTYPES[to])
    path = convert(folder, tmp_path / "model.gguf", to)
    formats = {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert formats == {"F32", to.upper()}
    np.testing.assert_allclose(logits(path), logits(folder), atol=SAME_LOGITS)


@pytest.mark.parametrize("name", EXPORTED)
def test_names_shapes_values_and_keys_are_llama_cpp_s(name: str, tmp_path: Path) -> None:
    model = build(sayable(case(name)))
    folder = with_tokenizer(save(model, tmp_path / "folder"))
    ours = gguf.GGUFReader(convert(folder, tmp_path / "ours.gguf", "f32"))
    theirs = gguf.GGUFReader(export(model, tmp_path / "theirs.gguf", {}))
    found = {tensor.name: np.array(tensor.data) for tensor in ours.tensors}
    assert found.keys() == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        np.testing.assert_allclose(found[tensor.name], tensor.data, rtol=1e-6, err_msg=tensor.name)
        assert list(tensor.shape) == list(
            next(t for t in ours.tensors if t.name == tensor.name).shape
        )
    for key, field in theirs.fields.items():
        if key.startswith("GGUF.") or key == "tokenizer.ggml.tokens":
            continue
        value = field.contents()
        wanted = value if isinstance(value, str) else pytest.approx(value, rel=1e-6)
        assert ours.fields[key].contents() == wanted, key


def test_quantizing_a_folder_is_quantizing_its_file(tmp_path: Path) -> None:
    wide = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    tiny = replace(case("llama"), changes=wide)
    folder = folder_of(tiny, tmp_path, torch.bfloat16)
    once = convert(folder, tmp_path / "once.gguf", "q4_k")
    twice = convert(convert(folder, tmp_path / "whole.gguf", "bf16"), tmp_path / "two.gguf", "q4_k")
    one, two = (
        {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (once, twice)
    )
    assert one.keys() == two.keys()
    assert {tensor.tensor_type.name for tensor in one.values()} == {"F32", "Q4_K", "Q6_K"}
    for name, tensor in one.items():
        assert np.array_equal(tensor.data, two[name].data), name


def test_a_window_that_gguf_cannot_say_bounds_the_context(tmp_path: Path) -> None:
    folder = folder_of(case("mistral-window"), tmp_path)
    source = FolderSource(open_weights(folder))
    assert source.keys()["llama.context_length"] == 20
    assert "20 tokens, not 256" in source.notes[0]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("qwen3-yarn", r"ropes\[0\]\.factors"),
        ("gemma2", r"attention\[0\]\.scale"),
        ("gemma3-soft-cap", "ropes"),
    ],
)
def test_a_number_without_a_key_is_refused_by_name(name: str, number: str, tmp_path: Path) -> None:
    tiny = case(name) if "scale" in number else sayable(case(name))
    folder = folder_of(tiny, tmp_path)
    with pytest.raises(UnsupportedFormat, match=f"no key that makes {number}"):
        FolderSource(open_weights(folder))


def test_a_folder_without_its_head_or_tokenizer_or_with_another_config_is_refused(
    tmp_path: Path,
) -> None:
    folder = save(build(case("qwen2")), tmp_path)
    with pytest.raises(ModelFileError, match=r"has no tokenizer\.json"):
        FolderSource(open_weights(folder))
    with_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}))
    with pytest.raises(ModelFileError, match="gate has shape"):
        FolderSource(open_weights(folder))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(MissingTensor, match=r"model\.layers\.3\."):
        FolderSource(open_weights(folder))
