"""Tiny models with random weights, one of every architecture and peculiarity, made by transformers.

In: a case. Out: the transformers model in float32, and its folder as any Hugging Face folder is.
Widths fill blocks of 32, so that the same weights can be quantized; lengths cross every window,
block edge and scaling threshold within TEST_LENGTH tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

TEST_LENGTH = 75
VOCAB_SIZE = 320

SIZES: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MANY_EXPERTS: Mapping[str, Any] = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
}
ROTARY_HALF = 16
SHORT_FACTORS = [1.0 + 0.05 * i for i in range(ROTARY_HALF // 2)]
LONG_FACTORS = [1.0 + 0.9 * i for i in range(ROTARY_HALF // 2)]
LONGROPE: Mapping[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "short_factor": SHORT_FACTORS,
    "long_factor": LONG_FACTORS,
}
LLAMA3_ROPE: Mapping[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE: Mapping[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_OWN_ROPE: Mapping[str, Any] = {
    **YARN_ROPE,
    "beta_fast": 20.0,
    "beta_slow": 2.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.7,
    "truncate": False,
}
GEMMA3_LONG_ROPE: Mapping[str, Any] = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}


@dataclass(frozen=True)
class TinyModel:
    """A config class and how it differs from SIZES. `seed` draws the weights."""

    name: str
    config_class: type[PreTrainedConfig]
    changes: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 1

    def config(self) -> PreTrainedConfig:
        return self.config_class(**{**SIZES, **self.changes})


CASES = (
    TinyModel("llama", LlamaConfig),
    TinyModel("llama-tied", LlamaConfig, {"tie_word_embeddings": True}),
    TinyModel("llama3-rope", LlamaConfig, {"rope_parameters": dict(LLAMA3_ROPE)}),
    TinyModel(
        "llama-linear-rope",
        LlamaConfig,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    TinyModel("llama-yarn", LlamaConfig, {"rope_parameters": dict(YARN_ROPE)}),
    TinyModel(
        "llama-dynamic-rope",
        LlamaConfig,
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    TinyModel("llama-one-kv-head", LlamaConfig, {"num_key_value_heads": 1}),
    TinyModel("llama-own-head-size", LlamaConfig, {"head_dim": 64}),
    TinyModel("mistral", MistralConfig, {"sliding_window": None}),
    TinyModel("mistral-window", MistralConfig, {"sliding_window": 20}),
    TinyModel("mixtral", MixtralConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
    TinyModel(
        "qwen2-moe",
        Qwen2MoeConfig,
        {**MANY_EXPERTS, "shared_expert_intermediate_size": 96, "norm_topk_prob": False},
    ),
    TinyModel("qwen3-moe", Qwen3MoeConfig, {**MANY_EXPERTS, "norm_topk_prob": True}),
    TinyModel("qwen2", Qwen2Config),
    TinyModel("qwen2-tied", Qwen2Config, {"tie_word_embeddings": True}),
    TinyModel("qwen2-wide", Qwen2Config, {"hidden_size": 256, "intermediate_size": 256}),
    TinyModel(
        "qwen2-windows",
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
    TinyModel("qwen3", Qwen3Config, {"head_dim": 64}),
    TinyModel("qwen3-yarn", Qwen3Config, {"rope_parameters": dict(YARN_OWN_ROPE)}),
    TinyModel(
        "gemma2",
        Gemma2Config,
        {
            "head_dim": 64,
            "sliding_window": 24,
            "query_pre_attn_scalar": 48,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    TinyModel(
        "gemma3",
        Gemma3TextConfig,
        {
            "num_hidden_layers": 7,
            "head_dim": 64,
            "sliding_window": 24,
            "query_pre_attn_scalar": 48,
        },
    ),
    TinyModel(
        "gemma3-soft-cap",
        Gemma3TextConfig,
        {
            "num_hidden_layers": 2,
            "head_dim": 32,
            "sliding_window": 24,
            "layer_types": ["full_attention", "sliding_attention"],
            "final_logit_softcapping": 5.0,
        },
    ),
    TinyModel(
        "gemma3-long",
        Gemma3TextConfig,
        {
            "num_hidden_layers": 2,
            "head_dim": 32,
            "sliding_window": 40,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {name: dict(part) for name, part in GEMMA3_LONG_ROPE.items()},
        },
    ),
    TinyModel(
        "gemma3-small",
        Gemma3TextConfig,
        {
            "num_hidden_layers": 2,
            "head_dim": 32,
            "sliding_window": 40,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    TinyModel("phi3", Phi3Config, {"original_max_position_embeddings": 256}),
    TinyModel("phi3-window", Phi3Config, {"sliding_window": 33}),
    TinyModel(
        "phi3-longrope",
        Phi3Config,
        {"rope_parameters": dict(LONGROPE), "original_max_position_embeddings": 64},
    ),
    TinyModel(
        "phi4-mini",
        Phi3Config,
        {
            "tie_word_embeddings": True,
            "num_attention_heads": 6,
            "hidden_size": 192,
            "original_max_position_embeddings": 256,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.75,
            },
        },
    ),
)


def case(name: str) -> TinyModel:
    """The case of this name."""
    return next(tiny for tiny in CASES if tiny.name == name)


def build(tiny: TinyModel, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model with every parameter random: no norm is 1, no bias 0.

    Weights that dtype rounds are kept rounded, in float32.
    """
    torch.manual_seed(tiny.seed)
    config = tiny.config()
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.copy_(torch.randn_like(parameter) * 1.5 * parameter.shape[-1] ** -0.5)
            parameter.copy_(parameter.to(dtype).float())
    model.tie_weights()
    return model


def save(model: PreTrainedModel, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The model as a Hugging Face folder with safetensors."""
    state = {name: value.to(dtype) for name, value in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=state)
    return folder


def token_ids(length: int = TEST_LENGTH, seed: int = 5) -> list[int]:
    """Random tokens of the tiny vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist()
