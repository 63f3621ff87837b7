"""Which layers' keys an int8 cache keeps in bf16.

In: a model's config and tensors. Out: the config, its layers marked. A scale per token and head is
set by its largest dim; where a bias that no shift takes off (key_shift.py) makes a few dims of
every key some twenty times larger than the rest, little is left of the rest.
Source: docs/design/0004-int8-kv.md.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.executor.key_shift import bias_left
from headrace.executor.load import ModelTensors, key_bias, key_factors
from headrace.models.model_config import ModelConfig
from headrace.weights.weight_reader import WeightReader

MAX_KEY_BIAS = 20.0
"""A larger one makes a layer's keys uneven. Measured on Qwen2.5-Coder 0.5B and 1.5B."""


def mark_uneven_keys(config: ModelConfig, reader: WeightReader) -> ModelConfig:
    """The config with `has_uneven_keys` set where a key bias is large.

    Raises: ModelFileError for a bias that cannot be read.
    """
    tensors = ModelTensors.open(reader, config)
    factors = key_factors(tensors)
    specs = tuple(
        replace(
            spec,
            has_uneven_keys=bias_left(config, layer, key_bias(tensors, layer), factors)
            > MAX_KEY_BIAS,
        )
        for layer, spec in enumerate(config.attention)
    )
    return replace(config, attention=specs)
