"""How far an array is from what it should be, and the array inside an activation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def values_of(act: Any) -> NDArray[np.floating[Any]]:
    """The floats of an Act or an Array."""
    return act if isinstance(act, np.ndarray) else act.values


def largest_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest absolute error over the largest expected magnitude; inf where one is not finite."""
    if not expected.size:
        return 0.0
    if not np.isfinite(actual).all():
        return float("inf")
    scale = max(float(np.abs(expected).max()), 1e-30)
    return float(np.abs(actual - expected).max()) / scale


def rms_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Root mean square error over root mean square value."""
    if not expected.size:
        return 0.0
    scale = max(float(np.sqrt(np.mean(np.square(expected)))), 1e-30)
    return float(np.sqrt(np.mean(np.square(actual - expected)))) / scale
