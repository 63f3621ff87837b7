"""Gemma 3 (text): norms around each block, q/k norms, GELU, windows in five layers of six.

Local layers see `sliding_window` tokens with one rotary base, global layers all with another.
Source: arXiv 2503.19786.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.models.llama import Hidden, Llama
from headrace.models.model_config import (
    GGUFFields,
    ModelConfig,
    check_activation,
    huggingface_rope,
    huggingface_rope_settings,
    required,
)
from headrace.models.weight_spec import LayerSpec, decoder_layer_spec
from headrace.ops.protocol import KVCache, RopeParams
from headrace.ops.step_inputs import StepInputs

LOCAL_THETA = 10000.0
GLOBAL_EVERY = 6
LAYERS_OF_27B = 62
"""The one size that scales scores by its width per head; GGUF has no key for it."""

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


class Gemma3(Llama):
    """Own forward for the post norms; config adds windows, scales and the two rotary bases."""

    model_type = "gemma3"

    @classmethod
    def config_from_gguf(cls, metadata: Mapping[str, object]) -> ModelConfig:
        fields = GGUFFields(metadata)
        config = super().config_from_gguf(metadata)
        window = fields.integer("attention.sliding_window")
        period = fields.integer("attention.sliding_window_pattern", GLOBAL_EVERY)
        theta = fields.number("rope.freq_base_swa", LOCAL_THETA)
        local_rope = replace(config.ropes[0], theta=theta, factors=None)
        scale = config.attention[0].head_size ** -0.5
        if config.num_layers == LAYERS_OF_27B:
            scale = (config.hidden_size / config.attention[0].num_heads) ** -0.5
        is_global = [(layer + 1) % period == 0 for layer in range(config.num_layers)]
        return replace(
            with_local_layers(config, is_global, scale, window, local_rope),
            logit_soft_cap=fields.optional("final_logit_softcapping"),
        )

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> ModelConfig:
        text = {**TEXT_DEFAULTS, **config.get("text_config", config)}
        if text.get("attn_logit_softcapping") or text.get("use_bidirectional_attention"):
            raise UnsupportedFormat("This Gemma variant uses attention that headrace does not run.")
        check_activation(text, "hidden_activation", ("gelu_pytorch_tanh",))
        settings = huggingface_rope_settings(text, "full_attention")
        plain = {**text, "rope_parameters": settings, "sliding_window": None, "hidden_act": None}
        base = super().config_from_huggingface(plain)
        local: Mapping[str, Any] = {"rope_theta": text.get("rope_local_base_freq", LOCAL_THETA)}
        if isinstance(text.get("rope_parameters"), Mapping):
            local = huggingface_rope_settings(text, "sliding_attention")
        head_size = base.attention[0].head_size
        local_rope, _ = huggingface_rope(local, head_size, base.max_model_len)
        scale = float(text.get("query_pre_attn_scalar") or head_size) ** -0.5
        is_global = [kind == "full_attention" for kind in layer_types(text, base.num_layers)]
        window = required(text, "sliding_window", int)
        return replace(
            with_local_layers(base, is_global, scale, window, local_rope),
            logit_soft_cap=text.get("final_logit_softcapping"),
        )

    @classmethod
    def layer_spec(cls, config: ModelConfig) -> LayerSpec:
        return decoder_layer_spec(config, has_post_norms=True)

    def forward(self, step: StepInputs, cache: KVCache) -> Hidden:
        """One pass over the flat batch. Mutates: cache."""
        ops, config, w = self.ops, self.config, self.weights
        eps = config.rms_norm_eps
        h = ops.embed(step.token_ids, w.embed, config.embed_scale)  # [T, C]
        y = None
        for layer, kv, spec, rope in zip(
            w.layers, cache.layers, config.attention, w.ropes, strict=True
        ):
            x = ops.rms_norm(h, layer.attn_norm, eps, add=y)
            qkv = ops.linear(x, layer.qkv)
            ops.rope(qkv, step.positions, rope, spec, layer.q_norm, layer.k_norm, eps)
            ops.store_kv(qkv, kv, step.slot_mapping, spec, layer.key_shift)
            x = ops.attention(qkv, kv, step, spec)
            if layer is w.layers[-1]:
                x, h = (ops.take_rows(each, step.logit_rows) for each in (x, h))
            y = ops.linear(x, layer.o)
            y = ops.norm_array(y, layer.post_attn_norm, eps)  # [T, C]
            x = ops.rms_norm(h, layer.mlp_norm, eps, add=y)
            gated = ops.gated_linear(x, layer.gate_up, "gelu_tanh", layer.down)
            y = ops.linear(gated, layer.down)
            y = ops.norm_array(y, layer.post_mlp_norm, eps)
        return Hidden(h, y)


def with_local_layers(
    config: ModelConfig,
    is_global: Sequence[bool],
    scale: float,
    window: int,
    local_rope: RopeParams,
) -> ModelConfig:
    """Gemma's numbers over those of a plain decoder whose rope is that of the global layers."""
    return replace(
        config,
        has_qk_norm=True,
        embed_scale=config.hidden_size**0.5,
        attention=tuple(
            replace(spec, scale=scale, window=None if is_full else window)
            for spec, is_full in zip(config.attention, is_global, strict=True)
        ),
        ropes=tuple(
            rope if is_full else local_rope
            for rope, is_full in zip(config.ropes, is_global, strict=True)
        ),
    )


def layer_types(text: Mapping[str, Any], num_layers: int) -> list[str]:
    """Local or global for each layer, from the list or from the period that older files name."""
    listed = text.get("layer_types")
    if listed:
        if len(listed) != num_layers:
            raise ModelFileError(
                f"config.json lists {len(listed)} layer_types for {num_layers} layers."
            )
        return list(listed)
    period = int(text.get("sliding_window_pattern") or GLOBAL_EVERY)
    return [
        "full_attention" if (layer + 1) % period == 0 else "sliding_attention"
        for layer in range(num_layers)
    ]
