"""Qwen 2 and 2.5: Llama with biases on q, k and v.

Source: arXiv 2407.10671.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig, listed_layer_types
from headrace.weights.tensor_source import read_size


class Qwen2(Llama):
    """Same forward; the fused qkv matrix carries the biases."""

    model_type = "qwen2"

    @classmethod
    def config_from_gguf(cls, metadata: Mapping[str, object]) -> ModelConfig:
        return replace(super().config_from_gguf(metadata), has_qkv_bias=True)

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> ModelConfig:
        plain = {**config, "sliding_window": None}
        base = replace(super().config_from_huggingface(plain), has_qkv_bias=True)
        return with_upper_windows(base, config)


def with_upper_windows(base: ModelConfig, config: Mapping[str, Any]) -> ModelConfig:
    """Qwen's windows in the layers from `max_window_layers` on, where the file switches them on.

    GGUF has no key for them: files of such models run without, as in llama.cpp.
    Raises: ModelFileError, UnsupportedFormat.
    """
    if not config.get("use_sliding_window") or not config.get("sliding_window"):
        return base
    window = read_size(config, "sliding_window")
    kinds = listed_layer_types(config, base.num_layers)
    if kinds is None:
        first = min(read_size(config, "max_window_layers", least=0), base.num_layers)
        kinds = ["full_attention"] * first + ["sliding_attention"] * (base.num_layers - first)
    return replace(
        base,
        attention=tuple(
            replace(spec, window=window if kind == "sliding_attention" else None)
            for spec, kind in zip(base.attention, kinds, strict=True)
        ),
    )
