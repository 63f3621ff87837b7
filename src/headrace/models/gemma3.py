"""Gemma 3 (text): norms around each block, q/k norms, GELU, windows in five layers of six.

Local layers see `sliding_window` tokens with one rotary base, global layers all with another.
Source: arXiv 2503.19786.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.core.errors import UnsupportedFormat
from headrace.models.llama import Hidden, Llama
from headrace.models.model_config import (
    GGUFFields,
    ModelConfig,
    huggingface_rope,
    huggingface_rope_settings,
    required,
)
from headrace.models.weight_spec import LayerSpec, decoder_layer_spec
from headrace.ops.protocol import KVCache
from headrace.ops.step_inputs import StepInputs

LOCAL_THETA = 10000.0
GLOBAL_EVERY = 6


class Gemma3(Llama):
    """Own forward for the post norms; config adds windows, scales and the two rotary bases."""

    model_type = "gemma3"

    @classmethod
    def config_from_gguf(cls, metadata: Mapping[str, object]) -> ModelConfig:
        fields = GGUFFields(metadata)
        config = super().config_from_gguf(metadata)
        window = fields.integer("attention.sliding_window")
        is_global = [(layer + 1) % GLOBAL_EVERY == 0 for layer in range(config.num_layers)]
        local_rope = replace(
            config.ropes[0],
            theta=fields.number("rope.freq_base_swa", LOCAL_THETA),
            factors=None,
        )
        scale = config.attention[0].head_size ** -0.5
        if config.num_layers == 62:  # the 27B scales by width per head, not by head size
            scale = (config.hidden_size / config.attention[0].num_heads) ** -0.5
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

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> ModelConfig:
        text = config.get("text_config", config)
        if text.get("attn_logit_softcapping") or text.get("use_bidirectional_attention"):
            raise UnsupportedFormat("This Gemma variant uses attention that headrace does not run.")
        settings = huggingface_rope_settings(text, "full_attention")
        base = super().config_from_huggingface(
            {**text, "rope_parameters": settings, "sliding_window": None}
        )
        head_size = base.attention[0].head_size
        local = huggingface_rope_settings(text, "sliding_attention")
        if not isinstance(text.get("rope_parameters"), Mapping):
            local = {"rope_theta": text.get("rope_local_base_freq", LOCAL_THETA)}
        local_rope = huggingface_rope(local, {}, head_size, base.max_model_len)
        window = required(text, "sliding_window", int)
        is_global = [kind == "full_attention" for kind in layer_types(text, base.num_layers)]
        scale = float(text.get("query_pre_attn_scalar") or head_size) ** -0.5
        return replace(
            base,
            has_qk_norm=True,
            embed_scale=base.hidden_size**0.5,
            logit_soft_cap=text.get("final_logit_softcapping"),
            attention=tuple(
                replace(base.attention[0], scale=scale, window=None if is_full else window)
                for is_full in is_global
            ),
            ropes=tuple(base.ropes[0] if is_full else local_rope for is_full in is_global),
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
            ops.store_kv(qkv, kv, step.slot_mapping, spec)
            y = ops.linear(ops.attention(qkv, kv, step, spec), layer.o)
            y = ops.norm_array(y, layer.post_attn_norm, eps)  # [T, C]
            x = ops.rms_norm(h, layer.mlp_norm, eps, add=y)
            y = ops.linear(ops.gelu_mul(ops.linear(x, layer.gate_up)), layer.down)
            y = ops.norm_array(y, layer.post_mlp_norm, eps)
        return Hidden(h, y)


def layer_types(text: Mapping[str, Any], num_layers: int) -> list[str]:
    """Local or global for each layer, from the list or from the period that older files name."""
    listed = text.get("layer_types")
    if listed:
        return list(listed)
    period = int(text.get("sliding_window_pattern", GLOBAL_EVERY))
    return [
        "full_attention" if (layer + 1) % period == 0 else "sliding_attention"
        for layer in range(num_layers)
    ]
