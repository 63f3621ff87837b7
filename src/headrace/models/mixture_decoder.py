"""What mixtures of experts share: a decoder whose feed-forward is a router and many small ones.

In and out: as of Llama. Every layer is a mixture; files that mix in plain layers are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.models.llama import Llama
from headrace.models.model_config import GGUFFields, Mixture, ModelConfig
from headrace.models.weight_spec import DecoderLayer
from headrace.ops.protocol import Act, Array, Routing
from headrace.weights.tensor_source import read_size


class MixtureDecoder(Llama):
    """Goes before the decoder it changes: `class Qwen3Moe(MixtureDecoder, Qwen3)`.

    `is_normalized` is what a GGUF file means that does not say.
    """

    is_normalized = True

    @classmethod
    def config_from_gguf(cls, metadata: Mapping[str, object]) -> ModelConfig:
        fields = GGUFFields(metadata)
        base = super().config_from_gguf(metadata)
        says_normalized = fields.optional("expert_weights_norm")
        routing = checked_routing(
            fields.integer("expert_count"),
            fields.integer("expert_used_count"),
            cls.is_normalized if says_normalized is None else bool(says_normalized),
        )
        width = fields.integer("expert_feed_forward_length", base.intermediate_size)
        shared = fields.integer("expert_shared_feed_forward_length", 0)
        return replace(base, mixture=Mixture(routing, width, shared))

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> ModelConfig:
        return replace(super().config_from_huggingface(config), mixture=cls.read_mixture(config))

    @classmethod
    def read_mixture(cls, config: Mapping[str, Any]) -> Mixture:
        """The numbers of config.json as Qwen names them. Raises: ModelFileError."""
        routing = checked_routing(
            read_size(config, experts_key(config)),
            read_size(config, "num_experts_per_tok"),
            bool(config.get("norm_topk_prob")),
        )
        refuse_plain_layers(config)
        return Mixture(routing, read_size(config, "moe_intermediate_size"))

    def feed_forward(self, x: Act, layer: DecoderLayer) -> Array:
        if layer.experts is None or self.config.mixture is None:
            raise RuntimeError("A mixture was built without experts.")
        return self.ops.moe(x, layer.experts, self.config.mixture.routing, self.activation)


def experts_key(config: Mapping[str, Any]) -> str:
    """Newer transformers saves every mixture's count under Mixtral's word."""
    return "num_local_experts" if "num_local_experts" in config else "num_experts"


def checked_routing(num_experts: int, num_chosen: int, is_normalized: bool) -> Routing:
    """Raises: ModelFileError for a choice that cannot be made."""
    if not 1 <= num_chosen <= num_experts:
        raise ModelFileError(
            f"The model chooses {num_chosen} of {num_experts} experts for a token; the first must "
            "be from 1 to the second."
        )
    return Routing(num_experts, num_chosen, is_normalized)


def refuse_plain_layers(config: Mapping[str, Any]) -> None:
    """Raises: UnsupportedFormat for Qwen's switches that no released file uses."""
    step = config.get("decoder_sparse_step")
    plain = config.get("mlp_only_layers")
    if step not in (None, 1) or plain:
        raise UnsupportedFormat(
            f"config.json has decoder_sparse_step = {step!r} and mlp_only_layers = {plain!r}; "
            "headrace runs mixtures in every layer."
        )
    if config.get("use_sliding_window"):
        raise UnsupportedFormat(
            "config.json has use_sliding_window = true, which headrace does not run in a mixture."
        )
