"""What Gemma 2 and 3 share: norms around each block, GELU, windows in some layers.

In and out: as of Llama. Knows nothing of which layers have windows; the config says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.core.errors import UnsupportedFormat
from headrace.models.llama import Hidden, Llama
from headrace.models.model_config import ModelConfig, listed_layer_types
from headrace.models.weight_spec import LayerSpec, decoder_layer_spec
from headrace.ops.protocol import KVCache
from headrace.ops.step_inputs import StepInputs


class GemmaDecoder(Llama):
    """Llama with a norm after attention and after the feed-forward, before each is added."""

    activation = "gelu_tanh"

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
            y = ops.all_reduce(ops.linear(x, layer.o))
            y = ops.norm_array(y, layer.post_attn_norm, eps)  # [T, C]
            x = ops.rms_norm(h, layer.mlp_norm, eps, add=y)
            y = ops.all_reduce(self.feed_forward(x, layer))
            y = ops.norm_array(y, layer.post_mlp_norm, eps)
        return Hidden(h, y)


def with_windows(
    config: ModelConfig,
    is_global: Sequence[bool],
    scale: float,
    window: int,
    score_cap: float | None = None,
) -> ModelConfig:
    """Gemma's numbers over those of a plain decoder."""
    return replace(
        config,
        embed_scale=config.hidden_size**0.5,
        attention=tuple(
            replace(spec, scale=scale, soft_cap=score_cap, window=None if is_full else window)
            for spec, is_full in zip(config.attention, is_global, strict=True)
        ),
    )


def gguf_scale(config: ModelConfig, layers_of_27b: int) -> float:
    """What multiplies scores. Source: llama.cpp, f_attention_scale."""
    spec = config.attention[0]
    is_27b = config.num_layers == layers_of_27b
    width = config.hidden_size / spec.num_heads if is_27b else spec.head_size
    return 1 / math.sqrt(width)


def refuse_bidirectional(text: Mapping[str, Any]) -> None:
    """Raises: UnsupportedFormat for the variants that embed texts by attention in both ways."""
    if text.get("use_bidirectional_attention"):
        raise UnsupportedFormat(
            "config.json has use_bidirectional_attention = true, which headrace does not run."
        )


def layer_types(text: Mapping[str, Any], num_layers: int, period: int) -> list[str]:
    """Local or global for each layer, from the list, or every `period`-th global without one."""
    listed = listed_layer_types(text, num_layers)
    if listed is not None:
        return listed
    return [
        "full_attention" if (layer + 1) % period == 0 else "sliding_attention"
        for layer in range(num_layers)
    ]
