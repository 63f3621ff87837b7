"""Qwen 3 MoE: Qwen 3 with many small experts.

Source: arXiv 2505.09388.
"""

from __future__ import annotations

from headrace.models.mixture_decoder import MixtureDecoder
from headrace.models.qwen3 import Qwen3


class Qwen3Moe(MixtureDecoder, Qwen3):
    """Both parts as they are."""

    model_type = "qwen3_moe"
