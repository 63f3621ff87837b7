"""What is taken off every key before it is rounded: the part of a large bias that hardly turns.

In: a layer's key bias and rotary embedding. Out: a vector per layer, and how large a bias is left.
Softmax sees differences of scores only, so all keys of a head may be moved by one vector. A bias is
turned with its position; in the slow dims it stays where it was. Source: docs/design/0007.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from headrace.models.model_config import ModelConfig

Floats = NDArray[np.float64]

LARGEST_ANGLE = math.pi / 3
"""Radians over the model's length: up to there |turned - b| = 2 sin(angle / 2) |b| <= |b|."""


def key_shift(
    config: ModelConfig, layer: int, bias: Floats | None, factors: tuple[float, ...] | None
) -> NDArray[np.float32] | None:
    """The shift; None without a bias, where keys are normed, or where scores are capped.

    Softmax does see a shift of capped scores. Shapes: bias [K*D] -> [K*D].
    """
    spec = config.attention[layer]
    if bias is None or spec.soft_cap is not None or config.has_qk_norm:
        return None
    is_slow = angles(config, layer, factors) <= LARGEST_ANGLE
    turned = bias.reshape(spec.num_kv_heads, spec.head_size) * rope_scale(config, layer)
    shift = np.where(is_slow, turned, 0.0)
    return shift.reshape(-1).astype(np.float32) if shift.any() else None


def bias_left(
    config: ModelConfig, layer: int, bias: Floats | None, factors: tuple[float, ...] | None
) -> float:
    """The largest magnitude that a key bias leaves in stored keys at any position."""
    if bias is None:
        return 0.0
    spec = config.attention[layer]
    heads = np.abs(bias.reshape(spec.num_kv_heads, spec.head_size))
    if key_shift(config, layer, bias, factors) is not None:
        angle = angles(config, layer, factors)
        heads = heads * np.where(angle <= LARGEST_ANGLE, 2 * np.sin(angle / 2), 1.0)
    return float(heads.max())


def angles(config: ModelConfig, layer: int, factors: tuple[float, ...] | None) -> Floats:
    """How far each dim turns over the model's length; 0 for dims that do not. Shapes: -> [D]."""
    params = config.ropes[layer]
    half = params.rotary_size // 2
    inverse = params.theta ** (-np.arange(half, dtype=np.float64) / half)
    used = factors if factors is not None else params.factors
    if used is not None:
        inverse = inverse / np.asarray(used, dtype=np.float64)
    turned = inverse * config.max_model_len
    still = np.zeros(config.attention[layer].head_size - 2 * half)
    return np.concatenate([turned, turned, still])


def rope_scale(config: ModelConfig, layer: int) -> Floats:
    """What the rotation multiplies each dim with. Shapes: -> [D]."""
    params = config.ropes[layer]
    scale = np.ones(config.attention[layer].head_size)
    scale[: params.rotary_size] = params.attention_factor
    return scale
