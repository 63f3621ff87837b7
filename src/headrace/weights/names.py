"""Which tensor of a file is which of ours, for each architecture and kind of file.

In: architecture, kind, layer count and the file's metadata. Out: our name -> TensorSource, and the
tensors themselves. Our names: `embed`, `norm`, `head`, and `layers.{i}.` with attn_norm, q, k, v,
o, q_bias, k_bias, v_bias, q_norm, k_norm, post_attn_norm, mlp_norm, gate, up, down, post_mlp_norm;
for mixtures of experts see expert_names.py.
Row slices and row order are undone here, so that models see one layout whatever the file was.
Knows nothing of shapes that a model wants, or of packing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.expert_names import expert_sources
from headrace.weights.tensor_source import Kind, TensorSource, read_size
from headrace.weights.weight_reader import WeightReader

MAX_LAYERS = 1024


@frozen
class _Traits:
    """What sets an architecture's tensors apart from llama's."""

    has_bias: bool = False
    has_qk_norm: bool = False
    has_post_norms: bool = False
    is_fused: bool = False
    has_experts: bool = False
    has_shared_expert: bool = False
    # Source: llama.cpp, convert_hf_to_gguf.py, LlamaModel.permute: only this family.
    is_permuted_in_gguf: bool = False
    # Source: transformers, Gemma2RMSNorm: x * (1 + weight); GGUF files have the 1 added.
    is_norm_from_one: bool = False


ARCHITECTURES: dict[str, _Traits] = {
    "llama": _Traits(is_permuted_in_gguf=True),
    "mistral": _Traits(is_permuted_in_gguf=True),
    "mixtral": _Traits(is_permuted_in_gguf=True, has_experts=True),
    "qwen2": _Traits(has_bias=True),
    "qwen2moe": _Traits(has_bias=True, has_experts=True, has_shared_expert=True),
    "qwen3": _Traits(has_qk_norm=True),
    "qwen3moe": _Traits(has_qk_norm=True, has_experts=True),
    "gemma2": _Traits(has_post_norms=True, is_norm_from_one=True),
    "gemma3": _Traits(has_qk_norm=True, has_post_norms=True, is_norm_from_one=True),
    "phi3": _Traits(is_fused=True),
}

GGUF_WORDS = {"mistral": "llama", "mixtral": "llama"}
"""Families whose GGUF files go under another one's word."""

_TOP = {
    "gguf": {"embed": "token_embd.weight", "norm": "output_norm.weight", "head": "output.weight"},
    "safetensors": {
        "embed": "model.embed_tokens.weight",
        "norm": "model.norm.weight",
        "head": "lm_head.weight",
    },
}
# Rope factors that GGUF keeps as tensors and Hugging Face in the config.
_GGUF_ROPE = {
    "rope_freqs": "rope_freqs.weight",
    "rope_factors_long": "rope_factors_long.weight",
    "rope_factors_short": "rope_factors_short.weight",
}
_LAYER: dict[Kind, dict[str, str]] = {
    "gguf": {
        "attn_norm": "attn_norm.weight",
        "q": "attn_q.weight",
        "k": "attn_k.weight",
        "v": "attn_v.weight",
        "o": "attn_output.weight",
        "mlp_norm": "ffn_norm.weight",
        "gate": "ffn_gate.weight",
        "up": "ffn_up.weight",
        "down": "ffn_down.weight",
        "q_bias": "attn_q.bias",
        "k_bias": "attn_k.bias",
        "v_bias": "attn_v.bias",
        "q_norm": "attn_q_norm.weight",
        "k_norm": "attn_k_norm.weight",
        "post_attn_norm": "post_attention_norm.weight",
        "post_mlp_norm": "post_ffw_norm.weight",
        "qkv": "attn_qkv.weight",
        "gate_up": "ffn_up.weight",
    },
    "safetensors": {
        "attn_norm": "input_layernorm.weight",
        "q": "self_attn.q_proj.weight",
        "k": "self_attn.k_proj.weight",
        "v": "self_attn.v_proj.weight",
        "o": "self_attn.o_proj.weight",
        "mlp_norm": "post_attention_layernorm.weight",
        "gate": "mlp.gate_proj.weight",
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
        "q_bias": "self_attn.q_proj.bias",
        "k_bias": "self_attn.k_proj.bias",
        "v_bias": "self_attn.v_proj.bias",
        "q_norm": "self_attn.q_norm.weight",
        "k_norm": "self_attn.k_norm.weight",
        "post_attn_norm": "post_attention_layernorm.weight",
        "post_mlp_norm": "post_feedforward_layernorm.weight",
        "qkv": "self_attn.qkv_proj.weight",
        "gate_up": "mlp.gate_up_proj.weight",
    },
}
# With norms on both sides of a block, post_attention_layernorm is no longer the one before the MLP.
_HF_MLP_NORM_BETWEEN_POST_NORMS = "pre_feedforward_layernorm.weight"

_PLAIN = ("attn_norm", "q", "k", "v", "o", "mlp_norm")
_FEED_FORWARD = ("gate", "up", "down")
_BIASES = ("q_bias", "k_bias", "v_bias")


def sources(
    architecture: str, kind: Kind, num_layers: int, config: Mapping[str, object]
) -> dict[str, TensorSource]:
    """Map our names to where their tensors lie in the file.

    `config` is the reader's metadata. `head`, llama's biases and the rope factors are optional.
    Raises: UnsupportedFormat for an architecture without names; ModelFileError for a bad config.
    """
    traits = ARCHITECTURES.get(architecture)
    if traits is None:
        raise UnsupportedFormat(
            f"architecture {architecture!r} is not one that headrace runs: "
            f"{', '.join(sorted(ARCHITECTURES))}."
        )
    if not 1 <= num_layers <= MAX_LAYERS:
        raise ModelFileError(f"the model claims {num_layers} layers; allowed: 1 to {MAX_LAYERS}.")
    prefix = ""
    if kind == "safetensors":
        text_config = config.get("text_config")
        if isinstance(text_config, Mapping):  # the text half of an image and text model
            config, prefix = text_config, "language_model."
        _refuse_output_bias(architecture, traits, config)
    found = dict(_top_sources(kind, traits, prefix))
    for name, source in _layer_sources(architecture, kind, traits, config):
        for layer in range(num_layers):
            start = f"blk.{layer}." if kind == "gguf" else f"{prefix}model.layers.{layer}."
            found[f"layers.{layer}.{name}"] = replace(source, name=start + source.name)
    return found


def load_tensor(reader: WeightReader, source: TensorSource) -> QuantTensor:
    """Read one of our tensors: its rows, in our order, with its transform.

    Without transform a matrix stays a view of the file; `add_one` gives f32.
    Raises: MissingTensor, UnsupportedFormat; ModelFileError if the file's tensor has too few rows.
    """
    return take_source(reader.path, reader.tensor(source.name), source)


def take_source(path: Path, tensor: QuantTensor, source: TensorSource) -> QuantTensor:
    """Our part of a file's tensor: its rows, in our order. `path` is for errors.

    Raises: ModelFileError.
    """
    if source.matrix is not None:
        if len(tensor.shape) != 3 or source.matrix >= tensor.shape[0]:
            raise ModelFileError(
                f"{path}: {source.name!r} has shape {list(tensor.shape)}; the model's "
                f"experts ask for matrix {source.matrix} of a stack."
            )
        tensor = tensor.matrix(source.matrix)
    if source.rows is not None:
        start, stop = source.rows
        if stop > tensor.shape[0]:
            raise ModelFileError(
                f"{path}: {source.name!r} has {tensor.shape[0]} rows, and the model's "
                f"head and feed-forward sizes ask for rows {start} to {stop}."
            )
        is_vector = len(tensor.shape) == 1
        tensor = _take(tensor, np.arange(start, stop)) if is_vector else tensor.rows(start, stop)
    if source.transform == "unpermute_rope":
        return _unpermute_rope(path, source, tensor)
    if source.transform == "as_row" and len(tensor.shape) == 1:
        return replace(tensor, shape=(1, *tensor.shape))
    if source.transform == "add_one":
        return QuantTensor.from_array(tensor.dequantize() + np.float32(1))
    return tensor


def unread_names(reader: WeightReader, wanted: Mapping[str, TensorSource]) -> list[str]:
    """Tensors of the file that no source reads: a model that has some is not the one we run.

    A bias of zeros adds nothing; old GPTQ files have one for every matrix.
    """
    read = {source.name for source in wanted.values()}
    return [
        name
        for name in reader.names()
        if name not in read
        and not name.endswith(_COMPUTED)
        and not name.startswith(_NOT_TEXT)
        and not (name.endswith(".bias") and _is_zero(reader, name))
    ]


def _is_zero(reader: WeightReader, name: str) -> bool:
    return not reader.tensor(name).dequantize().any()


# Constants that old checkpoints carry, and the image half of a model of which we run the text half.
_COMPUTED = (".rotary_emb.inv_freq",)
_NOT_TEXT = ("vision_tower.", "multi_modal_projector.")


def _top_sources(kind: Kind, traits: _Traits, prefix: str) -> Iterator[tuple[str, TensorSource]]:
    for name, file_name in _TOP[kind].items():
        add_one = name == "norm" and kind == "safetensors" and traits.is_norm_from_one
        yield (
            name,
            TensorSource(
                prefix + file_name,
                transform="add_one" if add_one else None,
                is_optional=name == "head",
            ),
        )
    if kind == "gguf":
        for name, file_name in _GGUF_ROPE.items():
            yield name, TensorSource(file_name, is_optional=True)


def _layer_sources(
    architecture: str, kind: Kind, traits: _Traits, config: Mapping[str, object]
) -> Iterator[tuple[str, TensorSource]]:
    """The sources of any layer, named without their layer."""
    names = dict(_LAYER[kind])
    if kind == "safetensors" and traits.has_post_norms:
        names["mlp_norm"] = _HF_MLP_NORM_BETWEEN_POST_NORMS
    wanted = [*_PLAIN, *(_BIASES if traits.has_bias or traits.is_permuted_in_gguf else ())]
    wanted += () if traits.has_experts else _FEED_FORWARD
    wanted += ("q_norm", "k_norm") if traits.has_qk_norm else ()
    wanted += ("post_attn_norm", "post_mlp_norm") if traits.has_post_norms else ()
    is_permuted = kind == "gguf" and traits.is_permuted_in_gguf
    slices: dict[str, tuple[str, tuple[int, int]]] = {}
    num_heads: dict[str, int] = {}
    if traits.is_fused or is_permuted:
        sizes = _Sizes.read(architecture, kind, config)
        slices = sizes.fused_rows() if traits.is_fused else {}
        num_heads = {"q": sizes.num_heads, "k": sizes.num_kv_heads}
    for name in wanted:
        source = TensorSource(names[name], is_optional=name in _BIASES and not traits.has_bias)
        if name in slices:
            fused, rows = slices[name]
            source = TensorSource(names[fused], rows)
        elif is_permuted and name.removesuffix("_bias") in num_heads:
            heads = num_heads[name.removesuffix("_bias")]
            source = replace(source, transform="unpermute_rope", num_heads=heads)
        elif kind == "safetensors" and traits.is_norm_from_one and name.endswith("norm"):
            source = replace(source, transform="add_one")
        yield name, source
    if traits.has_experts:
        yield from expert_sources(architecture, kind, config, traits.has_shared_expert)


@frozen
class _Sizes:
    """The sizes that row slices depend on."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    feed_forward: int

    @classmethod
    def read(cls, architecture: str, kind: Kind, config: Mapping[str, object]) -> _Sizes:
        if kind == "gguf":
            key = f"{config.get('general.architecture', architecture)}.{{}}"
            heads, kv_heads = "attention.head_count", "attention.head_count_kv"
            width, head_size, feed_forward = (
                "embedding_length",
                "attention.key_length",
                "feed_forward_length",
            )
        else:
            key = "{}"
            heads, kv_heads = "num_attention_heads", "num_key_value_heads"
            width, head_size, feed_forward = "hidden_size", "head_dim", "intermediate_size"
        num_heads = read_size(config, key.format(heads))
        return cls(
            num_heads,
            read_size(config, key.format(kv_heads), num_heads),
            read_size(
                config, key.format(head_size), read_size(config, key.format(width)) // num_heads
            ),
            read_size(config, key.format(feed_forward)),
        )

    def fused_rows(self) -> dict[str, tuple[str, tuple[int, int]]]:
        """q, k, v lie one after the other in one tensor, gate and up in another."""
        q_rows, kv_rows = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        return {
            "q": ("qkv", (0, q_rows)),
            "k": ("qkv", (q_rows, q_rows + kv_rows)),
            "v": ("qkv", (q_rows + kv_rows, q_rows + 2 * kv_rows)),
            "gate": ("gate_up", (0, self.feed_forward)),
            "up": ("gate_up", (self.feed_forward, 2 * self.feed_forward)),
        }


def _refuse_output_bias(architecture: str, traits: _Traits, config: Mapping[str, object]) -> None:
    """`attention_bias` adds a bias to the output projection too, which no model here has."""
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key) and not traits.has_bias:
            raise UnsupportedFormat(f"{architecture} with {key} set is not one that headrace runs.")


def _take(tensor: QuantTensor, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> QuantTensor:
    """Rows of a matrix, or weights of a vector."""
    if len(tensor.shape) == 1:
        return QuantTensor.from_array(tensor.dequantize()[indices])
    return tensor.take_rows(indices)


def _unpermute_rope(path: Path, source: TensorSource, tensor: QuantTensor) -> QuantTensor:
    """Rows of each head from (pair, half) order back to (half, pair)."""
    num_rows, num_heads = tensor.shape[0], source.num_heads
    if num_heads < 1 or num_rows % (2 * num_heads):
        raise ModelFileError(
            f"{path}: {source.name!r} has {num_rows} rows, which {num_heads} heads of an "
            "even size do not fill."
        )
    indices = np.arange(num_rows).reshape(num_heads, -1, 2).swapaxes(1, 2).reshape(-1)
    return _take(tensor, indices)
