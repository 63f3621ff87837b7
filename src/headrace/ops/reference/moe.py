"""Mixtures of experts, in numpy over the linears of any device whose arrays are numpy's.

In: rows, packed experts, how to choose. Out: one sum per row. Rows are gathered by expert, so that
each expert is read once a step. Knows nothing of how linears are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.ops.protocol import Activation, Experts, Ops, Routing
from headrace.ops.reference.norm import Floats

Exp = Callable[[Any], Any]
"""exp of values that are not positive."""


def moe(
    ops: Ops, x: Floats, experts: Experts, routing: Routing, activation: Activation, exp: Exp
) -> Floats:
    """See Ops.moe. `exp` must give each value the same bits wherever it stands."""
    chosen, weights = choose(ops.linear(x, experts.router), routing, exp)
    out = np.zeros(x.shape, dtype=x.dtype)
    for expert in np.unique(chosen):
        rows, places = np.nonzero(chosen == expert)  # ascending, each row once
        part = x if len(rows) == len(x) else x[rows]
        down = experts.down[expert]
        gated = ops.gated_linear(part, experts.gate_up[expert], activation, down)
        out[rows] += ops.linear(gated, down) * weights[rows, places, None]
    if experts.shared_down is not None:
        out += shared(ops, x, experts, activation, exp)
    return out


def choose(logits: Floats, routing: Routing, exp: Exp) -> tuple[NDArray[np.intp], Floats]:
    """Experts of each row in ascending order, and their weights.

    Shapes: logits [T, E] -> [T, num_chosen] each.
    """
    with np.errstate(invalid="ignore"):  # a row that is NaN stays NaN
        likelihood = exp(logits - logits.max(axis=1, keepdims=True))
    best = np.argsort(-logits, axis=1, kind="stable")[:, : routing.num_chosen]
    chosen = np.sort(best, axis=1)
    weights = np.take_along_axis(likelihood, chosen, axis=1)
    terms = weights if routing.is_normalized else likelihood
    # One after the other: numpy's own sum may take another order for another number of rows.
    total = np.add.accumulate(terms, axis=1)[:, -1:]
    return chosen, weights / total


def shared(ops: Ops, x: Floats, experts: Experts, activation: Activation, exp: Exp) -> Floats:
    """The expert of every row, times the sigmoid of its logit. Shapes: [T, C] -> [T, C]."""
    gated = ops.gated_linear(x, experts.shared_gate_up, activation, experts.shared_down)
    y: Floats = ops.linear(gated, experts.shared_down)
    if experts.shared_router is not None:
        logit = ops.linear(x, experts.shared_router)  # [T, 1]
        with np.errstate(invalid="ignore"):
            small = exp(-np.abs(logit))
        y = y * (np.where(logit >= 0, np.ones_like(small), small) / (1 + small))
    return y
