"""Mixtral: Mistral whose feed-forward is two of eight experts.

Source: arXiv 2401.04088.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.models.mixture_decoder import MixtureDecoder, checked_routing
from headrace.models.model_config import Mixture
from headrace.weights.tensor_source import read_size


class Mixtral(MixtureDecoder):
    """Its own names of the numbers in config.json; GGUF calls it a llama with experts."""

    model_type = "mixtral"

    @classmethod
    def read_mixture(cls, config: Mapping[str, Any]) -> Mixture:
        routing = checked_routing(
            read_size(config, "num_local_experts"),
            read_size(config, "num_experts_per_tok"),
            is_normalized=True,
        )
        return Mixture(routing, read_size(config, "intermediate_size"))
