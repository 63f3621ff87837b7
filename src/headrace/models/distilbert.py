"""DistilBERT: BERT without token types, with other words for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from headrace.models.bert import Bert
from headrace.models.encoder_config import EncoderConfig
from headrace.models.model_config import check_activation
from headrace.ops.protocol import Array
from headrace.weights.tensor_source import read_size

_WORDS = {
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
}


class DistilBert(Bert):
    """Source: arXiv 1910.01108."""

    model_type = "distilbert"
    classifiers: ClassVar[tuple[str, ...]] = ("DistilBertForSequenceClassification",)

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> EncoderConfig:
        check_activation(config, "activation", ("gelu",))
        named = {ours: read_size(config, theirs) for ours, theirs in _WORDS.items()}
        fixed = {"type_vocab_size": 0, "layer_norm_eps": 1e-12}
        found = super().config_from_huggingface({**config, **named, **fixed})
        return replace(found, reads_token_types=False)

    def activate(self, pooled: Array) -> Array:
        return self.ops.relu(pooled)
