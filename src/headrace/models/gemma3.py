"""Gemma 3 (text): Gemma 2 with q/k norms, no capped scores, windows in five layers of six.

Local layers see `sliding_window` tokens with one rotary base, global layers all with another.
Source: arXiv 2503.19786.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.core.errors import UnsupportedFormat
from headrace.models.gemma_decoder import (
    GemmaDecoder,
    gguf_scale,
    layer_types,
    refuse_bidirectional,
    with_windows,
)
from headrace.models.model_config import (
    GGUFFields,
    ModelConfig,
    check_activation,
    optional_cap,
    positive,
)
from headrace.models.rope_config import huggingface_rope, huggingface_rope_settings
from headrace.ops.protocol import RopeParams
from headrace.weights.tensor_source import read_size

LOCAL_THETA = 10000.0
GLOBAL_EVERY = 6
LAYERS_OF_27B = 62

TEXT_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "query_pre_attn_scalar": 256,
}
"""What the released image and text models leave out of config.json. Source: Gemma3TextConfig."""


class Gemma3(GemmaDecoder):
    """Config adds q/k norms and the two rotary bases."""

    model_type = "gemma3"

    @classmethod
    def config_from_gguf(cls, metadata: Mapping[str, object]) -> ModelConfig:
        fields = GGUFFields(metadata)
        config = super().config_from_gguf(metadata)
        window = fields.integer("attention.sliding_window")
        period = fields.integer("attention.sliding_window_pattern", GLOBAL_EVERY)
        theta = fields.number("rope.freq_base_swa", LOCAL_THETA)
        local_rope = replace(config.ropes[0], theta=theta, factors=None, attention_factor=1.0)
        is_global = [(layer + 1) % period == 0 for layer in range(config.num_layers)]
        local = with_windows(config, is_global, gguf_scale(config, LAYERS_OF_27B), window)
        return replace(
            with_local_ropes(local, is_global, local_rope),
            logit_soft_cap=optional_cap(metadata, f"{fields.prefix}.final_logit_softcapping"),
        )

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> ModelConfig:
        given = config.get("text_config")
        text = {**TEXT_DEFAULTS, **(given if isinstance(given, Mapping) else config)}
        if text.get("attn_logit_softcapping"):
            raise UnsupportedFormat("This Gemma variant uses attention that headrace does not run.")
        refuse_bidirectional(text)
        check_activation(text, "hidden_activation", ("gelu_pytorch_tanh",))
        settings = huggingface_rope_settings(text, "full_attention")
        plain = {**text, "rope_parameters": settings, "sliding_window": None, "hidden_act": None}
        base = super().config_from_huggingface(plain)
        local: Mapping[str, Any] = {"rope_theta": text.get("rope_local_base_freq") or LOCAL_THETA}
        if isinstance(text.get("rope_parameters"), Mapping):
            local = huggingface_rope_settings(text, "sliding_attention")
        head_size = base.attention[0].head_size
        local_rope, _ = huggingface_rope(local, head_size, base.max_model_len)
        scale = positive(text, "query_pre_attn_scalar", head_size) ** -0.5
        period = read_size(text, "sliding_window_pattern", GLOBAL_EVERY)
        kinds = layer_types(text, base.num_layers, period)
        is_global = [kind == "full_attention" for kind in kinds]
        window = read_size(text, "sliding_window")
        return replace(
            with_local_ropes(with_windows(base, is_global, scale, window), is_global, local_rope),
            logit_soft_cap=optional_cap(text, "final_logit_softcapping"),
        )


def with_local_ropes(
    config: ModelConfig, is_global: Sequence[bool], local_rope: RopeParams
) -> ModelConfig:
    """The q/k norms, and another rotary base in layers with windows."""
    return replace(
        config,
        has_qk_norm=True,
        ropes=tuple(
            rope if is_full else local_rope
            for rope, is_full in zip(config.ropes, is_global, strict=True)
        ),
    )
