"""Writes a transformers model as GGUF by the gguf package, as llama.cpp's converter does.

In: a tiny transformers model and a format per tensor. Out: the file; and the model's weights
replaced by what the file holds, so that the model stays the oracle of its quantized self.
Names come from the gguf package's own table, never from headrace.
Source: llama.cpp, convert_hf_to_gguf.py: TextModel and the class of each architecture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize as gguf_dequantize
from numpy.typing import NDArray
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from headrace.quant.quantize import quantize

LLAMA3 = ROPE_INIT_FUNCTIONS["llama3"]

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mixtral": gguf.MODEL_ARCH.LLAMA,
    "qwen2_moe": gguf.MODEL_ARCH.QWEN2MOE,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "phi3": gguf.MODEL_ARCH.PHI3,
}

GEMMAS = ("gemma2", "gemma3_text")


def export(model: PreTrainedModel, path: Path, formats: Mapping[str, str]) -> Path:
    """Write the file. `formats`: part of a GGUF tensor name -> format; others stay f32.

    Mutates: model, whose matrices take the values that the file holds.
    """
    config = model.config
    arch = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    write_keys(writer, model)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    state = model.state_dict()
    if config.tie_word_embeddings:
        state.pop("lm_head.weight")
    for name, value in split_gate_up(state).items():
        file_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert file_name is not None, name
        write_tensor(writer, config, name, file_name, value, formats)
    write_rope_factors(writer, config)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def split_gate_up(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stacks of experts as the table of names has them: gate and up apart, views of the model."""
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if not name.endswith("experts.gate_up_proj"):
            found[name + ".weight" if name.endswith("experts.down_proj") else name] = value
            continue
        gate, up = value.chunk(2, dim=1)
        found[name.replace("gate_up_proj", "gate_proj.weight")] = gate
        found[name.replace("gate_up_proj", "up_proj.weight")] = up
    return found


def write_experts(writer: gguf.GGUFWriter, config: object) -> None:
    """The numbers of a mixture."""
    is_mixtral = config.model_type == "mixtral"
    writer.add_expert_count(config.num_local_experts if is_mixtral else config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    if not is_mixtral:
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if config.model_type == "qwen2_moe":
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)


def write_keys(writer: gguf.GGUFWriter, model: PreTrainedModel) -> None:
    """The numbers, under the keys the converter writes for each architecture."""
    config = model.config
    head_size = (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_token_list([f"<{i}>" for i in range(config.vocab_size)])
    if config.model_type in ("llama", "mixtral", "phi3"):
        writer.add_vocab_size(config.vocab_size)
    if hasattr(config, "num_experts_per_tok"):
        write_experts(writer, config)
    parameters = config.rope_parameters
    if config.model_type == "gemma3_text":
        parameters = parameters["full_attention"]
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type in GEMMAS:
        writer.add_sliding_window(config.sliding_window)
        writer.add_key_length(head_size)
        writer.add_value_length(head_size)
    elif head_size * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_size)
        writer.add_value_length(head_size)
    if config.model_type in ("llama", "mixtral", "phi3"):
        writer.add_rope_dimension_count(
            int(head_size * parameters.get("partial_rotary_factor", 1.0))
        )
    if config.model_type == "phi3":
        writer.add_sliding_window(config.sliding_window or 0)
        writer.add_rope_scaling_orig_ctx_len(config.original_max_position_embeddings)
    writer.add_rope_freq_base(parameters["rope_theta"])
    if parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(parameters["factor"])
    if parameters["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])


def write_tensor(
    writer: gguf.GGUFWriter,
    config: object,
    name: str,
    file_name: str,
    value: torch.Tensor,
    formats: Mapping[str, str],
) -> None:
    """One tensor in the file's conventions. Mutates: value, if its format rounds it."""
    format_name = next((fmt for part, fmt in formats.items() if part in file_name), "f32")
    model_type = config.model_type
    if value.ndim > 1 and format_name != "f32":
        value.copy_(torch.from_numpy(rounded(value.numpy(), format_name)))
    array = value.numpy()
    if name.endswith("shared_expert_gate.weight"):
        array = array[0]
    if model_type in ("llama", "mixtral") and name.endswith(("q_proj.weight", "k_proj.weight")):
        is_query = "q_proj" in name
        heads = config.num_attention_heads if is_query else config.num_key_value_heads
        array = permute(array, heads)
    if model_type in GEMMAS and name.endswith("norm.weight"):
        array = array + np.float32(1)
    if array.ndim == 1 or format_name == "f32":
        writer.add_tensor(file_name, np.ascontiguousarray(array, dtype=np.float32))
        return
    raw_type = gguf.GGMLQuantizationType[format_name.upper()]
    blocks = blocks_of(array, format_name)
    np.testing.assert_array_equal(gguf_dequantize(blocks, raw_type), array)
    writer.add_tensor(file_name, blocks, raw_dtype=raw_type)


def blocks_of(array: NDArray[np.float32], format_name: str) -> NDArray[np.uint8]:
    """Rows quantized, in the shape of the array but for its last axis: a stack stays one."""
    rows = quantize(np.ascontiguousarray(array).reshape(-1, array.shape[-1]), format_name).data
    return rows.reshape(*array.shape[:-1], -1)


def rounded(array: NDArray[np.float32], format_name: str) -> NDArray[np.float32]:
    """The floats that blocks of the format can hold, unchanged by being quantized once more."""
    raw_type = gguf.GGMLQuantizationType[format_name.upper()]
    previous = array
    for _ in range(20):
        values = gguf_dequantize(blocks_of(previous, format_name), raw_type)
        if np.array_equal(values, previous):
            return values
        previous = values
    raise AssertionError(f"{format_name} does not settle")


def permute(array: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows of each head from halves to interleaved pairs, as the converter writes Llama's."""
    shape = (num_heads, 2, array.shape[0] // num_heads // 2, *array.shape[1:])
    return array.reshape(shape).swapaxes(1, 2).reshape(array.shape)


def write_rope_factors(writer: gguf.GGUFWriter, config: object) -> None:
    """Frequency divisors, which GGUF keeps as tensors."""
    parameters = config.rope_parameters
    kind = parameters.get("rope_type")
    if kind == "longrope":
        for key in ("long", "short"):
            factors = np.array(parameters[f"{key}_factor"], dtype=np.float32)
            writer.add_tensor(f"rope_factors_{key}.weight", factors)
        original = config.original_max_position_embeddings
        stretch = config.max_position_embeddings / original
        factor = math.sqrt(1 + math.log(stretch) / math.log(original))
        writer.add_rope_scaling_attn_factors(factor)
    if kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config, parameters))


def llama3_factors(config: object, parameters: Mapping[str, float]) -> NDArray[np.float32]:
    """Plain inverse frequencies over those of transformers."""
    size = config.head_dim
    from_transformers = LLAMA3(config, "cpu")[0].double().numpy()
    plain = parameters["rope_theta"] ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    return (plain / from_transformers).astype(np.float32)
