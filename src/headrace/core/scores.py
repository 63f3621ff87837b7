"""What the outputs of a classification head mean, as numbers for people.

In: the outputs. Out: one probability over all labels, one for each label, or the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


def to_scores(outputs: Sequence[float], problem_type: ProblemType | None) -> tuple[float, ...]:
    """One probability over all labels, one for each, or the outputs as they are."""
    if problem_type == "single_label_classification":
        largest = max(outputs)
        weights = [math.exp(output - largest) for output in outputs]
        return tuple(weight / math.fsum(weights) for weight in weights)
    if problem_type == "multi_label_classification":
        return tuple(_sigmoid(output) for output in outputs)
    return tuple(outputs)


def _sigmoid(x: float) -> float:
    small = math.exp(-abs(x))  # never overflows
    return (1.0 if x >= 0 else small) / (1.0 + small)
