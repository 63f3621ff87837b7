"""Which part of a key bias is taken off, and what is left of it at any position."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.executor.key_shift import LARGEST_ANGLE, bias_left, key_shift
from headrace.executor.load import ModelTensors, key_bias, key_factors
from headrace.models.model_config import ModelConfig
from headrace.models.registry import model_class
from headrace.ops.reference.rope import rope, rope_table
from headrace.weights.weight_reader import open_weights


@pytest.fixture(scope="module")
def tensors(qwen05_path: Path) -> ModelTensors:
    reader = open_weights(qwen05_path)
    config = model_class(reader.architecture).config_from_gguf(reader.metadata)
    return ModelTensors.open(reader, config)


def rotated(config: ModelConfig, layer: int, bias: np.ndarray, positions: list[int]) -> np.ndarray:
    """A bias as it stands in keys. Shapes: [K*D] -> [positions, K*D]."""
    spec = config.attention[layer]
    qkv = np.zeros((len(positions), spec.qkv_width))
    keys = slice(
        spec.num_heads * spec.head_size, (spec.num_heads + spec.num_kv_heads) * spec.head_size
    )
    qkv[:, keys] = bias
    table = rope_table(config.ropes[layer], np.float64)
    rope(qkv, np.array(positions, np.int32), table, spec, None, None, 0.0)
    return qkv[:, keys]


def test_nothing_larger_than_told_is_left(tensors: ModelTensors) -> None:
    config, factors = tensors.config, key_factors(tensors)
    positions = [0, 100, 3000, 11_000, 20_000, config.max_model_len - 1]
    for layer in (0, 1, 8, 20):
        bias = key_bias(tensors, layer)
        shift = key_shift(config, layer, bias, factors)
        assert bias is not None and shift is not None
        left = np.abs(rotated(config, layer, bias, positions) - shift)
        # The dims of a pair are turned into each other; told is what each has alone.
        assert left.max() <= np.sqrt(2) * bias_left(config, layer, bias, factors)
        is_shifted = shift != 0
        assert left[0, is_shifted].max() < 1e-5 * np.abs(bias).max()
        assert left[1, is_shifted].max() < 0.01 * np.abs(bias).max()


def test_only_slow_dims_are_shifted(tensors: ModelTensors) -> None:
    config, bias = tensors.config, key_bias(tensors, 0)
    shift = key_shift(config, 0, bias, None)
    assert bias is not None and shift is not None
    half = config.attention[0].head_size // 2
    angle = config.max_model_len * config.ropes[0].theta ** (-np.arange(half) / half)
    is_slow = np.tile(angle <= LARGEST_ANGLE, 2 * config.attention[0].num_kv_heads)
    np.testing.assert_array_equal(shift, np.where(is_slow, bias, 0).astype(np.float32))


def test_dims_that_do_not_turn_are_shifted_whole(tensors: ModelTensors) -> None:
    config = tensors.config
    still = replace(config, ropes=tuple(replace(r, rotary_size=8) for r in config.ropes))
    bias = key_bias(tensors, 0)
    shift = key_shift(still, 0, bias, None)
    assert bias is not None and shift is not None
    heads = shift.reshape(-1, config.attention[0].head_size)
    np.testing.assert_array_equal(heads[:, 8:], bias.reshape(heads.shape)[:, 8:].astype("f4"))


def test_capped_scores_normed_keys_and_no_bias_have_no_shift(tensors: ModelTensors) -> None:
    config, bias = tensors.config, key_bias(tensors, 0)
    capped = replace(config, attention=(replace(config.attention[0], soft_cap=30.0),))
    assert key_shift(capped, 0, bias, None) is None
    assert key_shift(replace(config, has_qk_norm=True), 0, bias, None) is None
    assert key_shift(config, 0, None, None) is None
    assert bias is not None
    assert bias_left(capped, 0, bias, None) == np.abs(bias).max()
    assert bias_left(config, 0, None, None) == 0.0
