"""A logistic regression of a few features, without arrays: fitted by Newton's method.

In: rows of numbers with a yes or no for each. Out: weights, probabilities, and how well they order
the rows. Rows are standardized by whoever calls.
Source: Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", 4.4.1; the area under
the curve is Mann-Whitney's U, its interval Hanley and McNeil's (Radiology 143, 1982).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from headrace.core.frozen import frozen

MAX_ITERATIONS = 50
TOLERANCE = 1e-8
Z_95 = 1.959964

Row = Sequence[float]


@frozen
class Logistic:
    """Weights of features, and what is added."""

    weights: tuple[float, ...]
    bias: float

    def probability(self, row: Row) -> float:
        """Of yes."""
        return sigmoid(self.bias + sum(w * x for w, x in zip(self.weights, row, strict=True)))


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), of any number."""
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    power = math.exp(value)
    return power / (1.0 + power)


def fit(rows: Sequence[Row], labels: Sequence[bool], penalty: float = 1.0) -> Logistic:
    """The weights that make the labels most likely, minus `penalty` / 2 times their squares.

    The penalty is above 0: it keeps weights finite where the labels can be told apart. The bias
    has none. Raises: ValueError without rows of both labels.
    """
    if len(set(labels)) < 2:
        raise ValueError("a fit needs rows of both labels")
    width = len(rows[0]) + 1
    inputs = [(*row, 1.0) for row in rows]
    weights = [0.0] * width
    weights[-1] = math.log(sum(labels) / (len(labels) - sum(labels)))
    for _ in range(MAX_ITERATIONS):
        step = _newton_step(inputs, labels, weights, penalty)
        # A step too long can leave the bowl; half of it does not.
        largest = max(map(abs, step))
        scale = min(1.0, 5.0 / largest) if largest else 1.0
        weights = [weight + scale * part for weight, part in zip(weights, step, strict=True)]
        if largest < TOLERANCE:
            break
    return Logistic(tuple(weights[:-1]), weights[-1])


def _newton_step(
    inputs: Sequence[Row], labels: Sequence[bool], weights: Sequence[float], penalty: float
) -> list[float]:
    width = len(weights)
    gradient = [-penalty * weight for weight in weights[:-1]] + [0.0]
    curvature = [[0.0] * width for _ in range(width)]
    for place in range(width - 1):
        curvature[place][place] = penalty
    curvature[-1][-1] = 1e-9
    for row, label in zip(inputs, labels, strict=True):
        found = sigmoid(sum(w * x for w, x in zip(weights, row, strict=True)))
        missing, steepness = label - found, found * (1.0 - found)
        for i, left in enumerate(row):
            gradient[i] += missing * left
            line, factor = curvature[i], steepness * left
            for j in range(i + 1):
                line[j] += factor * row[j]
    for i in range(width):
        for j in range(i):
            curvature[j][i] = curvature[i][j]
    return _solve(curvature, gradient)


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss with the largest pivot. Mutates: both."""
    size = len(right)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(matrix[row][column]))
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        right[column], right[pivot] = right[pivot], right[column]
        for row in range(column + 1, size):
            factor = matrix[row][column] / matrix[column][column]
            if factor:
                for place in range(column, size):
                    matrix[row][place] -= factor * matrix[column][place]
                right[row] -= factor * right[column]
    found = [0.0] * size
    for row in range(size - 1, -1, -1):
        known = sum(matrix[row][place] * found[place] for place in range(row + 1, size))
        found[row] = (right[row] - known) / matrix[row][row]
    return found


def area_under_curve(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """The chance that a yes scores above a no; ties count half. 0.5 without both."""
    num_yes = sum(labels)
    num_no = len(labels) - num_yes
    if not num_yes or not num_no:
        return 0.5
    ranked = sorted(zip(scores, labels, strict=True))
    rank_sum, at = 0.0, 0
    while at < len(ranked):
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        mean_rank = (at + 1 + end) / 2
        rank_sum += mean_rank * sum(label for _, label in ranked[at:end])
        at = end
    return (rank_sum - num_yes * (num_yes + 1) / 2) / (num_yes * num_no)


def area_interval(area: float, num_yes: int, num_no: int) -> tuple[float, float]:
    """95 percent of an area under the curve.

    Where all are in order the formula would claim certainty: so many pairs apart that all agree
    leave room for others.
    """
    if not num_yes or not num_no:
        return 0.0, 1.0
    room = 1 - 0.025 ** (1 / min(num_yes, num_no))
    if area in (0.0, 1.0):
        return max(0.0, area - room), min(1.0, area + room)
    one, two = area / (2 - area), 2 * area * area / (1 + area)
    spread = area * (1 - area) + (num_yes - 1) * (one - area**2) + (num_no - 1) * (two - area**2)
    half = Z_95 * math.sqrt(max(0.0, spread) / (num_yes * num_no))
    return max(0.0, area - half), min(1.0, area + half)
