"""Bert: the encoder that MiniLM, bge and e5 share, with or without a classification head.

In: packed weights, whole sequences. Out: the state of every token; the outputs of the head.
RoBERTa and DistilBERT are it with other numbers. Knows nothing of devices, files, pooling or
requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from headrace.core.errors import UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.models.encoder_config import (
    EncoderConfig,
    encoder_attention,
    read_labels,
    read_problem_type,
)
from headrace.models.model_config import check_activation, positive
from headrace.ops.protocol import Array, Ops, PackedLinear, PackedTable
from headrace.ops.step_inputs import EncoderInputs, Int32
from headrace.weights.tensor_source import read_size


@frozen
class LayerNorm:
    """Shapes: weight, bias [C]."""

    weight: Array
    bias: Array


@frozen
class EncoderLayer:
    """Packed weights of one layer; every linear has its bias."""

    qkv: PackedLinear
    o: PackedLinear
    attn_norm: LayerNorm
    up: PackedLinear
    down: PackedLinear
    mlp_norm: LayerNorm


@frozen
class EncoderWeights:
    """`positions` has a row per token type and position: their sum. Heads are None without one."""

    embed: PackedTable
    positions: PackedTable
    norm: LayerNorm
    layers: tuple[EncoderLayer, ...]
    pooler: PackedLinear | None = None
    classifier: PackedLinear | None = None


class Bert:
    """Layer norms after each block, learned positions, gelu. Source: arXiv 1810.04805."""

    model_type = "bert"
    classifiers: ClassVar[tuple[str, ...]] = ("BertForSequenceClassification",)

    @classmethod
    def config_from_huggingface(cls, config: Mapping[str, Any]) -> EncoderConfig:
        """The numbers in config.json. Raises: ModelFileError, UnsupportedFormat."""
        check_activation(config, "hidden_act", ("gelu",))
        _refuse_others(config)
        given = config.get("architectures")
        is_classifier = isinstance(given, list) and any(each in cls.classifiers for each in given)
        labels = read_labels(config) if is_classifier else ()
        return EncoderConfig(
            model_type=cls.model_type,
            num_layers=read_size(config, "num_hidden_layers"),
            hidden_size=read_size(config, "hidden_size"),
            intermediate_size=read_size(config, "intermediate_size"),
            vocab_size=read_size(config, "vocab_size"),
            num_positions=read_size(config, "max_position_embeddings"),
            num_token_types=read_size(config, "type_vocab_size", least=0),
            layer_norm_eps=positive(config, "layer_norm_eps", 1e-12),
            attention=encoder_attention(config),
            labels=labels,
            problem_type=read_problem_type(config, len(labels)) if labels else None,
        )

    def __init__(self, ops: Ops, config: EncoderConfig, weights: EncoderWeights) -> None:
        self.ops, self.config, self.weights = ops, config, weights

    def forward(self, inputs: EncoderInputs) -> Array:
        """The states of all tokens. Shapes: -> [T, C]."""
        ops, eps = self.ops, self.config.layer_norm_eps
        w = self.weights
        h = ops.embed(inputs.token_ids, w.embed)  # [T, C]
        positions = ops.embed(inputs.position_rows, w.positions)
        h = ops.layer_norm(h, w.norm.weight, w.norm.bias, eps, add=positions)
        for layer in w.layers:
            qkv = ops.linear(h, layer.qkv)  # [T, 3*H*D]
            x = ops.attention_packed(qkv, inputs.query_start, self.config.attention)
            y = ops.linear(x, layer.o)
            h = ops.layer_norm(y, layer.attn_norm.weight, layer.attn_norm.bias, eps, add=h)
            y = ops.linear(ops.gelu(ops.linear(h, layer.up)), layer.down)
            h = ops.layer_norm(y, layer.mlp_norm.weight, layer.mlp_norm.bias, eps, add=h)
        return h

    def outputs(self, states: Array, first_rows: Int32) -> Array:
        """What the head makes of each sequence's first token.

        Shapes: states [T, C]; first_rows [R] -> [R, labels].
        """
        first = self.ops.take_rows(states, first_rows)
        pooled = self.activate(self.ops.linear(first, self.weights.pooler))
        return self.ops.linear(pooled, self.weights.classifier)

    def activate(self, pooled: Array) -> Array:
        """The activation between a head's two linears. Mutates: pooled [R, C]."""
        return self.ops.tanh(pooled)


def _refuse_others(config: Mapping[str, Any]) -> None:
    """BERT's rarer forms compute something else. Raises: UnsupportedFormat."""
    kind = config.get("position_embedding_type", "absolute")
    if kind != "absolute":
        raise UnsupportedFormat(
            f"config.json has position_embedding_type = {kind!r}; headrace runs absolute here."
        )
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            raise UnsupportedFormat(f"config.json has {key} = true; headrace runs encoders here.")
