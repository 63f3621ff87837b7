"""Qwen 2 and 2.5: Llama with biases on q, k and v.

Source: arXiv 2407.10671.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.core.errors import UnsupportedFormat
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig


class Qwen2(Llama):
    """Same forward; the fused qkv matrix carries the biases."""

    model_type = "qwen2"

    @classmethod
    def config_from_gguf(cls, metadata: Mapping[str, object]) -> ModelConfig:
        return replace(super().config_from_gguf(metadata), has_qkv_bias=True)

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> ModelConfig:
        refuse_partial_windows(config)
        plain = {**config, "sliding_window": None}
        return replace(super().config_from_huggingface(plain), has_qkv_bias=True)


def refuse_partial_windows(config: Mapping[str, Any]) -> None:
    """Qwen's switch for windows in its upper layers. Raises: UnsupportedFormat when it is on."""
    if config.get("use_sliding_window"):
        raise UnsupportedFormat(
            "config.json has use_sliding_window = true, which headrace does not run here."
        )
