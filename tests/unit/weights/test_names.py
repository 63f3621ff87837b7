"""Names, row slices and transforms. Transformers' own state dicts and the gguf package's tables
are the oracles: every tensor of a model is wanted once, under a name both sides know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import transformers
from numpy.typing import NDArray

from fakes.gguf_file import U32, GgufFile, array_value, string_value, u32, u32_value
from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from headrace.weights.gguf import GgufReader
from headrace.weights.names import (
    ARCHITECTURES,
    load_tensor,
    sources,
    unread_names,
)
from headrace.weights.safetensors import SafetensorsReader
from headrace.weights.tensor_source import TensorSource

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
EXPERTS = {
    "mixtral": {"num_local_experts": 3},
    "qwen2moe": {
        "num_experts": 3,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 80,
    },
    "qwen3moe": {"num_experts": 3, "moe_intermediate_size": 48},
}
CONFIG_CLASSES = {
    "llama": "LlamaConfig",
    "mistral": "MistralConfig",
    "mixtral": "MixtralConfig",
    "qwen2moe": "Qwen2MoeConfig",
    "qwen3moe": "Qwen3MoeConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "gemma2": "Gemma2Config",
    "gemma3": "Gemma3TextConfig",
    "phi3": "Phi3Config",
}
GGUF_SIZES = {
    "embedding_length": 64,
    "feed_forward_length": 96,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 16,
}


def hugging_face(architecture: str, path: Path, **change: Any) -> transformers.PreTrainedModel:
    """A tiny model with random weights, saved in `path`."""
    config = getattr(transformers, CONFIG_CLASSES[architecture])(
        **(SIZES | EXPERTS.get(architecture, {}) | change)
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    for number, parameter in enumerate(model.parameters()):
        parameter.data.normal_(mean=number)  # norms start as ones: make every tensor its own
    model.save_pretrained(path)
    return model


def gguf_config(architecture: str) -> dict[str, object]:
    return {f"{architecture}.{key}": value for key, value in GGUF_SIZES.items()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hugging_face_tensors_are_each_wanted_and_found(architecture: str, tmp_path: Path) -> None:
    model = hugging_face(architecture, tmp_path)
    reader = SafetensorsReader(tmp_path)
    assert reader.architecture == architecture
    wanted = sources(architecture, "safetensors", 2, reader.metadata)
    assert unread_names(reader, wanted) == []
    absent = {name for name, source in wanted.items() if source.name not in reader.names()}
    assert all(wanted[name].is_optional for name in absent)
    assert {name.rsplit(".", 1)[-1] for name in absent} <= {"q_bias", "k_bias", "v_bias"}
    weights = {name: load_tensor(reader, wanted[name]) for name in wanted.keys() - absent}
    layer = model.model.layers[1]
    assert weights["layers.1.q"].shape == (64, 64)
    assert weights["layers.1.k"].shape == weights["layers.1.v"].shape == (32, 64)
    if architecture in EXPERTS:
        return
    assert weights["layers.1.gate"].shape == weights["layers.1.up"].shape == (96, 64)
    assert np.array_equal(
        weights["layers.1.down"].dequantize(), layer.mlp.down_proj.weight.detach().numpy()
    )


@pytest.mark.parametrize("architecture", EXPERTS)
def test_every_expert_of_hugging_face_is_its_own(architecture: str, tmp_path: Path) -> None:
    layer = hugging_face(architecture, tmp_path).model.layers[1].mlp
    reader = SafetensorsReader(tmp_path)
    wanted = sources(architecture, "safetensors", 2, reader.metadata)
    inner = EXPERTS[architecture].get("moe_intermediate_size", 96)
    for expert in range(3):
        gate_up = layer.experts.gate_up_proj[expert].detach().numpy()  # [2F, C]
        down = layer.experts.down_proj[expert].detach().numpy()
        expected = {"gate": gate_up[:inner], "up": gate_up[inner:], "down": down}
        for name, values in expected.items():
            tensor = load_tensor(reader, wanted[f"layers.1.experts.{expert}.{name}"])
            assert np.array_equal(tensor.dequantize(), values)
    router = load_tensor(reader, wanted["layers.1.router"])
    assert np.array_equal(router.dequantize(), layer.gate.weight.detach().numpy())
    shared = {name for name in wanted if name.startswith("layers.1.shared_")}
    assert len(shared) == (4 if architecture == "qwen2moe" else 0)


def test_hugging_face_phi3_is_cut_as_its_model_cuts_it(tmp_path: Path) -> None:
    layer = hugging_face("phi3", tmp_path).model.layers[1]
    reader = SafetensorsReader(tmp_path)
    wanted = sources("phi3", "safetensors", 2, reader.metadata)
    qkv = layer.self_attn.qkv_proj.weight.detach().numpy()
    gate, up = layer.mlp.gate_up_proj.weight.detach().chunk(2)
    expected = {"q": qkv[:64], "k": qkv[64:96], "v": qkv[96:], "gate": gate, "up": up}
    for name, values in expected.items():
        tensor = load_tensor(reader, wanted[f"layers.1.{name}"])
        assert np.array_equal(tensor.dequantize(), np.asarray(values))


def test_gemma3_norms_of_hugging_face_gain_their_one(tmp_path: Path) -> None:
    model = hugging_face("gemma3", tmp_path).model
    reader = SafetensorsReader(tmp_path)
    wanted = sources("gemma3", "safetensors", 2, reader.metadata)
    norms = {
        "norm": model.norm,
        "layers.1.attn_norm": model.layers[1].input_layernorm,
        "layers.1.post_attn_norm": model.layers[1].post_attention_layernorm,
        "layers.1.mlp_norm": model.layers[1].pre_feedforward_layernorm,
        "layers.1.post_mlp_norm": model.layers[1].post_feedforward_layernorm,
        "layers.1.q_norm": model.layers[1].self_attn.q_norm,
        "layers.1.k_norm": model.layers[1].self_attn.k_norm,
    }
    for name, module in norms.items():
        loaded = load_tensor(reader, wanted[name])
        assert loaded.format.name == "f32"
        assert np.array_equal(loaded.dequantize(), module.weight.detach().numpy() + np.float32(1))
    plain = {name for name, source in wanted.items() if source.transform is None}
    assert not any(name.endswith("norm") for name in plain)


def test_the_text_half_of_an_image_model_is_found_under_its_prefix() -> None:
    config = {"text_config": SIZES, "num_attention_heads": "not this one"}
    wanted = sources("gemma3", "safetensors", 1, config)
    assert wanted["embed"].name == "language_model.model.embed_tokens.weight"
    assert wanted["layers.0.q"].name == "language_model.model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3", "phi3"])
def test_gguf_names_are_those_of_the_gguf_package(architecture: str) -> None:
    """Every tensor the package lists for the architecture is wanted, and no other."""
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    known = {gguf.TENSOR_NAMES[tensor].format(bid=0) for tensor in gguf.MODEL_TENSORS[arch]}
    wanted = sources(architecture, "gguf", 1, gguf_config(architecture))
    ours = {source.name.removesuffix(".weight") for source in wanted.values()}
    ours -= {name for name in ours if name.endswith(".bias")}
    rope = {"rope_freqs", "rope_factors_long", "rope_factors_short"}
    assert ours - rope <= known
    # Listed by the package for variants that headrace does not run: mixtures, heads, scores.
    other = ("exp", "rot_embd", "ffn_gate_inp", "cls", "dense", "sub_norm")
    if architecture == "phi3":  # the package also lists the split form; files have the fused one
        other += ("attn_q", "attn_k", "attn_v")
    missing = {name for name in known - ours - rope if not any(part in name for part in other)}
    assert missing == set()


def permute(weights: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """What convert_hf_to_gguf.py does to q and k of llama: halves become interleaved pairs."""
    split = weights.reshape(num_heads, 2, weights.shape[0] // num_heads // 2, *weights.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(weights.shape))


def llama_file(path: Path, tensors: Mapping[str, QuantTensor]) -> GgufReader:
    keys = [("general.architecture", string_value("llama"))]
    keys += [(f"llama.{key}", u32_value(value)) for key, value in GGUF_SIZES.items()]
    file = GgufFile(keys=keys)
    for name, tensor in tensors.items():
        file.add(name, tensor)
    path.write_bytes(file.to_bytes())
    return GgufReader(path)


@pytest.mark.parametrize("format_name", ["f32", "q8_0", "q4_k"])
def test_llama_q_and_k_of_gguf_get_their_rows_back(tmp_path: Path, format_name: str) -> None:
    rng = np.random.default_rng(0)
    q, k = (rng.standard_normal((rows, 256), dtype=np.float32) for rows in (64, 32))
    bias = rng.standard_normal(32, dtype=np.float32)
    reader = llama_file(
        tmp_path / "model.gguf",
        {
            "blk.0.attn_q.weight": quantize(permute(q, 4), format_name),
            "blk.0.attn_k.weight": quantize(permute(k, 2), format_name),
            "blk.0.attn_v.weight": quantize(k, format_name),
            "blk.0.attn_k.bias": quantize(permute(bias, 2), "f32"),
        },
    )
    wanted = sources("llama", "gguf", 1, reader.metadata)
    for name, expected in (("q", q), ("k", k), ("v", k)):
        loaded = load_tensor(reader, wanted[f"layers.0.{name}"])
        assert loaded.format.name == format_name
        assert np.array_equal(loaded.data, quantize(expected, format_name).data)
    assert np.array_equal(load_tensor(reader, wanted["layers.0.k_bias"]).dequantize(), bias)


def test_vectors_are_cut_by_their_weights(tmp_path: Path) -> None:
    bias = np.arange(8, dtype=np.float32)
    reader = llama_file(tmp_path / "model.gguf", {"bias": quantize(bias, "f16")})
    loaded = load_tensor(reader, TensorSource("bias", rows=(2, 5)))
    assert np.array_equal(loaded.dequantize(), bias[2:5])


def test_tensors_nobody_wants_are_listed(tmp_path: Path) -> None:
    one = quantize(np.ones((1, 32)), "f32")
    reader = llama_file(tmp_path / "model.gguf", {"token_embd.weight": one, "blk.0.odd.bias": one})
    assert unread_names(reader, sources("llama", "gguf", 1, reader.metadata)) == ["blk.0.odd.bias"]
    none = quantize(np.zeros((1, 32)), "f32")
    reader = llama_file(tmp_path / "b.gguf", {"token_embd.weight": one, "blk.0.odd.bias": none})
    assert unread_names(reader, sources("llama", "gguf", 1, reader.metadata)) == []


def test_rows_that_the_file_lacks_are_refused(tmp_path: Path) -> None:
    reader = llama_file(tmp_path / "model.gguf", {"a": quantize(np.ones((6, 32)), "q8_0")})
    with pytest.raises(ModelFileError, match=r"'a' has 6 rows.*ask for rows 4 to 9"):
        load_tensor(reader, TensorSource("a", rows=(4, 9)))
    with pytest.raises(ModelFileError, match="'a' has 6 rows, which 4 heads"):
        load_tensor(reader, TensorSource("a", transform="unpermute_rope", num_heads=4))


def test_unknown_architectures_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedFormat, match=r"'mamba' is not one .*gemma3, llama, mistral"):
        sources("mamba", "gguf", 1, {})


@pytest.mark.parametrize("num_layers", [0, -1, 2**31])
def test_layer_counts_out_of_range_are_refused(num_layers: int) -> None:
    with pytest.raises(ModelFileError, match="layers; allowed: 1 to 1024"):
        sources("llama", "gguf", num_layers, gguf_config("llama"))


@pytest.mark.parametrize("value", [None, 0, -4, "4", 4.0, True, [4, 4], 1 << 40])
def test_sizes_that_slices_need_are_checked(value: object) -> None:
    config = gguf_config("llama") | {"llama.attention.head_count": value}
    with pytest.raises(ModelFileError, match=r"llama\.attention\.head_count is .*; allowed: one"):
        sources("llama", "gguf", 1, config)


def test_head_counts_by_layer_are_refused(tmp_path: Path) -> None:
    keys = [
        ("general.architecture", string_value("llama")),
        ("llama.attention.head_count", array_value(U32, [u32(4), u32(8)])),
    ]
    path = tmp_path / "model.gguf"
    path.write_bytes(GgufFile(keys=keys).to_bytes())
    with pytest.raises(ModelFileError, match=r"head_count is \[4, 8\]; allowed: one integer"):
        sources("llama", "gguf", 2, GgufReader(path).metadata)


def test_a_bias_that_no_model_adds_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="llama with attention_bias set"):
        sources("llama", "safetensors", 1, SIZES | {"attention_bias": True})
