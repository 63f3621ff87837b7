"""Llama: the decoder that Mistral and SmolLM share, and whose forward Qwen and Phi-3 reuse.

In: packed weights, the arrays of a step, the KV cache. Out: hidden states, then logits of the
wanted rows. Knows nothing of devices, files or requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from headrace.core.frozen import frozen
from headrace.models.model_config import (
    SILU,
    GGUFFields,
    ModelConfig,
    check_activation,
    gguf_attention,
    huggingface_attention,
    positive,
)
from headrace.models.rope_config import gguf_rope, huggingface_rope, huggingface_rope_settings
from headrace.models.weight_spec import (
    DecoderLayer,
    DecoderWeights,
    LayerSpec,
    decoder_layer_spec,
)
from headrace.ops.protocol import Act, Activation, Array, KVCache, Ops
from headrace.ops.step_inputs import Int32, StepInputs
from headrace.weights.tensor_source import read_size


@frozen
class Hidden:
    """The residual stream after the last layer, and what is still to be added.

    Of the rows whose logits are wanted: [S, C] each.
    """

    h: Array
    add: Array


class Llama:
    """RMSNorm, grouped-query attention with rotary embedding, SwiGLU.

    Source: arXiv 2302.13971; grouped queries arXiv 2305.13245.
    """

    model_type = "llama"
    activation: Activation = "silu"

    @classmethod
    def config_from_gguf(cls, metadata: Mapping[str, object]) -> ModelConfig:
        """The numbers in GGUF metadata. Raises: ModelFileError, UnsupportedFormat."""
        fields = GGUFFields(metadata)
        spec = gguf_attention(fields)
        num_layers = fields.integer("block_count")
        rope = gguf_rope(fields, spec.head_size, fields.integer("context_length"))
        return ModelConfig(
            model_type=cls.model_type,
            num_layers=num_layers,
            hidden_size=fields.integer("embedding_length"),
            intermediate_size=fields.integer("feed_forward_length"),
            vocab_size=fields.vocab_size(),
            max_model_len=rope.max_positions,
            rms_norm_eps=fields.number("attention.layer_norm_rms_epsilon"),
            attention=(spec,) * num_layers,
            ropes=(rope,) * num_layers,
        )

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> ModelConfig:
        """The numbers in config.json. Raises: ModelFileError, UnsupportedFormat."""
        check_activation(config, "hidden_act", SILU)
        spec = huggingface_attention(config)
        num_layers = read_size(config, "num_hidden_layers")
        settings = huggingface_rope_settings(config)
        context = read_size(config, "max_position_embeddings")
        rope, long_rope = huggingface_rope(settings, spec.head_size, context)
        return ModelConfig(
            model_type=cls.model_type,
            num_layers=num_layers,
            hidden_size=read_size(config, "hidden_size"),
            intermediate_size=read_size(config, "intermediate_size"),
            vocab_size=read_size(config, "vocab_size"),
            max_model_len=rope.max_positions,
            rms_norm_eps=positive(config, "rms_norm_eps"),
            attention=(replace(spec, window=sliding_window(config)),) * num_layers,
            ropes=(rope,) * num_layers,
            is_head_tied=config.get("tie_word_embeddings"),
            long_rope=long_rope,
        )

    @classmethod
    def layer_spec(cls, config: ModelConfig) -> LayerSpec:
        return decoder_layer_spec(config)

    def __init__(self, ops: Ops, config: ModelConfig, weights: DecoderWeights) -> None:
        self.ops, self.config, self.weights = ops, config, weights

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
            qkv = ops.linear(x, layer.qkv)  # [T, (H+2K)*D]
            ops.rope(qkv, step.positions, rope, spec, layer.q_norm, layer.k_norm, eps)
            ops.store_kv(qkv, kv, step.slot_mapping, spec, layer.key_shift)
            x = ops.attention(qkv, kv, step, spec)  # [T, H*D]
            if layer is w.layers[-1]:
                # After the last attention nothing reads the other rows.
                x, h = (ops.take_rows(each, step.logit_rows) for each in (x, h))
            y = ops.all_reduce(ops.linear(x, layer.o))  # [T, C]
            x = ops.rms_norm(h, layer.mlp_norm, eps, add=y)
            y = ops.all_reduce(self.feed_forward(x, layer))
        return Hidden(h, y)

    def feed_forward(self, x: Act, layer: DecoderLayer) -> Array:
        """What a layer computes of each token alone; of several ranks, a part of its sum.

        Shapes: [T, C] -> [T, C].
        """
        gated = self.ops.gated_linear(x, layer.gate_up, self.activation, layer.down)
        return self.ops.linear(gated, layer.down)

    def over(self, ops: Ops) -> Self:
        """The same model over other ops that read its packed weights."""
        return type(self)(ops, self.config, self.weights)

    def states(self, hidden: Hidden, rows: Int32) -> Array:
        """What the head reads of rows of `hidden`. Shapes: rows [n] of S -> [n, C]."""
        h, add = (self.ops.take_rows(each, rows) for each in (hidden.h, hidden.add))
        return self.ops.norm_array(h + add, self.weights.norm, self.config.rms_norm_eps)

    def logits(self, hidden: Hidden, rows: Int32) -> Array:
        """Logits of rows of `hidden`. Shapes: rows [n] of S -> [n, V]."""
        logits = self.ops.logits(
            hidden.h,
            self.weights.norm,
            self.config.rms_norm_eps,
            self.weights.head,
            rows,
            add=hidden.add,
            soft_cap=self.config.logit_soft_cap,
        )
        return self.ops.all_gather(logits, self.config.vocab_size)


def sliding_window(config: Mapping[str, Any]) -> int | None:
    """Mistral's and Phi-3's window over all layers, None where the file has none.

    Llama has no windows, even where its config carries the key.
    """
    if config.get("model_type") == "llama":
        return None
    return read_size(config, "sliding_window") if config.get("sliding_window") else None
