"""Qwen 3: Llama with an rms norm on every query and key head, head size independent of the width.

Source: arXiv 2505.09388.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.core.errors import UnsupportedFormat
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.models.qwen2 import with_upper_windows


class Qwen3(Llama):
    """Same forward; q_norm and k_norm are applied inside rope."""

    model_type = "qwen3"

    @classmethod
    def config_from_gguf(cls, metadata: Mapping[str, object]) -> ModelConfig:
        return replace(super().config_from_gguf(metadata), has_qk_norm=True)

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> ModelConfig:
        if config.get("attention_bias"):
            raise UnsupportedFormat(
                "config.json has attention_bias = true, which Qwen 3 files do not use."
            )
        plain = {**config, "sliding_window": None}
        base = replace(super().config_from_huggingface(plain), has_qk_norm=True)
        return with_upper_windows(base, config)
