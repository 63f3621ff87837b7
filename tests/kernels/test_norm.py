"""rms_norm, norm_array and add, on every implementation."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.ops.protocol import Ops
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.quant.quant_tensor import QuantTensor
from kernels.cases import FLOAT32_ERROR, ROW_COUNTS, ROW_KINDS, WIDTHS, rows
from kernels.errors import largest_error, values_of

EPS = 1e-6


@pytest.mark.parametrize("kind", ROW_KINDS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("num_rows", ROW_COUNTS)
def test_rms_norm(
    ops: Ops,
    exact_ops: ReferenceOps,
    rng: np.random.Generator,
    num_rows: int,
    width: int,
    kind: str,
) -> None:
    h, weight = rows(rng, num_rows, width, kind), rows(rng, 1, width)[0]
    expected = exact_ops.rms_norm(h.astype(np.float64), weight.astype(np.float64), EPS)
    vector = ops.pack_vector(QuantTensor.from_array(weight))
    before = h.copy()
    assert largest_error(values_of(ops.rms_norm(h, vector, EPS)), expected) < FLOAT32_ERROR
    assert largest_error(ops.norm_array(h, vector, EPS), expected) < FLOAT32_ERROR
    np.testing.assert_array_equal(h, before)


def test_rms_norm_adds_first(ops: Ops, exact_ops: ReferenceOps, rng: np.random.Generator) -> None:
    h, add, weight = rows(rng, 5, 896), rows(rng, 5, 896), rows(rng, 1, 896)[0]
    total = h + add
    expected = exact_ops.rms_norm(total.astype(np.float64), weight.astype(np.float64), EPS)
    result = values_of(ops.rms_norm(h, weight, EPS, add=add))
    np.testing.assert_array_equal(h, total)
    assert largest_error(result, expected) < FLOAT32_ERROR


def test_rows_do_not_see_each_other(cpu_ops: Ops, rng: np.random.Generator) -> None:
    h, weight = rows(rng, 33, 896), rows(rng, 1, 896)[0]
    whole = values_of(cpu_ops.rms_norm(h, weight, EPS))
    for t in (0, 1, 32):
        alone = values_of(cpu_ops.rms_norm(h[t : t + 1].copy(), weight, EPS))
        assert alone.tobytes() == whole[t].tobytes()
