"""silu_mul and gelu_mul over interleaved columns, on every implementation."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.ops.protocol import Ops
from headrace.ops.reference.reference_ops import ReferenceOps
from kernels.cases import FLOAT32_ERROR, ROW_COUNTS, rows
from kernels.errors import values_of

INNER_WIDTHS = (16, 48, 4864, 8960)


def extremes(gate_up: np.ndarray) -> np.ndarray:
    """Put the values where exp and tanh saturate into the first gates."""
    special = np.array([0.0, -0.0, 1e-30, -1e-30, 20, -20, 90, -90, 200, -200, 1e4, -1e4], "f4")
    gate_up[:, : len(special)] = special
    return gate_up


@pytest.mark.parametrize("name", ["silu_mul", "gelu_mul"])
@pytest.mark.parametrize("inner", INNER_WIDTHS)
@pytest.mark.parametrize("num_rows", ROW_COUNTS)
def test_activation(
    ops: Ops,
    exact_ops: ReferenceOps,
    rng: np.random.Generator,
    num_rows: int,
    inner: int,
    name: str,
) -> None:
    gate_up = extremes(rows(rng, num_rows, 2 * inner))
    expected = getattr(exact_ops, name)(gate_up.astype(np.float64))
    actual = values_of(getattr(ops, name)(gate_up))
    assert actual.shape == (num_rows, inner)
    # Element by element: the saturated values would hide an error of the others.
    assert np.all(np.abs(actual - expected) <= FLOAT32_ERROR * (np.abs(expected) + 1e-3))


@pytest.mark.parametrize("name", ["silu_mul", "gelu_mul"])
def test_rows_do_not_see_each_other(cpu_ops: Ops, rng: np.random.Generator, name: str) -> None:
    gate_up = rows(rng, 33, 2 * 4864)
    whole = values_of(getattr(cpu_ops, name)(gate_up))
    alone = values_of(getattr(cpu_ops, name)(gate_up[32:].copy()))
    assert alone.tobytes() == whole[32].tobytes()
