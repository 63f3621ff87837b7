"""Qwen 2 and 2.5: Llama with biases on q, k and v.

Source: arXiv 2407.10671.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.core.errors import ModelFileError
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig, required


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
    Raises: ModelFileError.
    """
    if not config.get("use_sliding_window") or not config.get("sliding_window"):
        return base
    window = required(config, "sliding_window", int)
    kinds = config.get("layer_types")
    if not kinds:
        first = min(required(config, "max_window_layers", int), base.num_layers)
        kinds = ["full_attention"] * first + ["sliding_attention"] * (base.num_layers - first)
    if len(kinds) != base.num_layers:
        raise ModelFileError(
            f"config.json lists {len(kinds)} layer_types for {base.num_layers} layers."
        )
    return replace(
        base,
        attention=tuple(
            replace(spec, window=window if kind == "sliding_attention" else None)
            for spec, kind in zip(base.attention, kinds, strict=True)
        ),
    )
