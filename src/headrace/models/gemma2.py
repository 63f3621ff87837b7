"""Gemma 2: norms around each block, GELU, capped scores, windows in every other layer.

Source: arXiv 2408.00118.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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
from headrace.weights.tensor_source import read_size

GLOBAL_EVERY = 2
LAYERS_OF_27B = 46
"""The one size that scales scores by its width per head; GGUF has no key for it."""

DEFAULTS: Mapping[str, Any] = {
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
"""What a file that names no value means. Source: Gemma2Config; llama.cpp, llama_hparams."""


class Gemma2(GemmaDecoder):
    """Config adds the caps of scores and logits, and the windows."""

    model_type = "gemma2"

    @classmethod
    def config_from_gguf(cls, metadata: Mapping[str, object]) -> ModelConfig:
        fields = GGUFFields(metadata)
        config = super().config_from_gguf(metadata)
        window = fields.integer("attention.sliding_window", DEFAULTS["sliding_window"])
        score_cap = fields.number("attn_logit_softcapping", DEFAULTS["attn_logit_softcapping"])
        logit_cap = fields.number("final_logit_softcapping", DEFAULTS["final_logit_softcapping"])
        is_global = [(layer + 1) % GLOBAL_EVERY == 0 for layer in range(config.num_layers)]
        scale = gguf_scale(config, LAYERS_OF_27B)
        local = with_windows(config, is_global, scale, window, score_cap)
        return replace(local, logit_soft_cap=logit_cap)

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> ModelConfig:
        text = {**DEFAULTS, **config}
        refuse_bidirectional(text)
        check_activation(text, "hidden_activation", ("gelu_pytorch_tanh",))
        plain = {**text, "sliding_window": None, "hidden_act": None}
        base = super().config_from_huggingface(plain)
        kinds = layer_types(text, base.num_layers, GLOBAL_EVERY)
        is_global = [kind == "full_attention" for kind in kinds]
        scale = positive(text, "query_pre_attn_scalar", base.attention[0].head_size) ** -0.5
        window = read_size(text, "sliding_window")
        score_cap = optional_cap(text, "attn_logit_softcapping")
        local = with_windows(base, is_global, scale, window, score_cap)
        return replace(local, logit_soft_cap=optional_cap(text, "final_logit_softcapping"))
