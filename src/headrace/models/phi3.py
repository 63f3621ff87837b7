"""Phi-3: Llama with fused projections in its files, partial rotary embedding, long context.

Source: arXiv 2404.14219; long context arXiv 2402.13753.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from headrace.models.llama import Llama
from headrace.models.model_config import GGUFFields, ModelConfig


class Phi3(Llama):
    """Same forward; weights.names splits the fused tensors."""

    model_type = "phi3"

    @classmethod
    def config_from_gguf(cls, metadata: Mapping[str, object]) -> ModelConfig:
        fields = GGUFFields(metadata)
        config = super().config_from_gguf(metadata)
        window = fields.integer("attention.sliding_window", 0) or None
        return replace(
            config,
            attention=tuple(replace(spec, window=window) for spec in config.attention),
            original_max_model_len=fields.integer("rope.scaling.original_context_length", 0)
            or None,
        )
