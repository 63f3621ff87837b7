"""rms_norm and add, layer_norm, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis. Shapes: [..., C], weight [C].

    Source: arXiv 1910.07467.
    """
    mean_square = np.mean(np.square(x), axis=-1, keepdims=True)
    normed: Floats = x / np.sqrt(mean_square + x.dtype.type(eps)) * weight
    return normed


def add_rms_norm(h: Floats, weight: Floats, eps: float, add: Floats | None) -> Floats:
    """h += add, where given, then rms_norm. Mutates: h when add is given."""
    if add is not None:
        h += add
    return rms_norm(h, weight, eps)


def layer_norm(x: Floats, weight: Floats, bias: Floats, eps: float) -> Floats:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis. Shapes: [..., C].

    Source: arXiv 1607.06450.
    """
    centered = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(np.square(centered), axis=-1, keepdims=True)
    normed: Floats = centered / np.sqrt(variance + x.dtype.type(eps)) * weight + bias
    return normed
