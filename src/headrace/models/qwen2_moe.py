"""Qwen 1.5 and 2 MoE: Qwen 2 with many small experts and one that every token shares.

Source: arXiv 2407.10671, section 2.2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.models.mixture_decoder import MixtureDecoder
from headrace.models.model_config import Mixture
from headrace.models.qwen2 import Qwen2
from headrace.weights.tensor_source import read_size


class Qwen2Moe(MixtureDecoder, Qwen2):
    """Config adds the shared expert."""

    model_type = "qwen2_moe"
    is_normalized = False

    @classmethod
    def read_mixture(cls, config: Mapping[str, Any]) -> Mixture:
        shared = read_size(config, "shared_expert_intermediate_size")
        return replace(super().read_mixture(config), shared_intermediate_size=shared)
