"""Adapters on every implementation: products of few columns, added to the rows that have them."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.ops.protocol import AdaptedLinear, Ops
from headrace.ops.reference.activation import ACTIVATIONS
from headrace.ops.step_inputs import AdapterRows, StepInputs
from headrace.quant.quant_tensor import QuantTensor
from kernels.cases import FLOAT32_ERROR, rows
from kernels.errors import values_of
from kernels.matmul_cases import random_blocks

WIDTH, OUT = 96, 160
NONE = np.zeros(0, np.int32)


def step_of(num_rows: int, *adapters: AdapterRows) -> StepInputs:
    """A step of which only sizes and adapters are read; all of its rows are wanted."""
    every = np.arange(num_rows, dtype=np.int32)
    return StepInputs(every, every, every, every, every, every[None], every, adapters)


def draw(rng: np.random.Generator, rank: int) -> tuple[np.ndarray, np.ndarray]:
    return rows(rng, rank, WIDTH), rows(rng, OUT, rank)


def adapter_of(ops: Ops, weight: object, a: np.ndarray, b: np.ndarray, interleave: bool) -> object:
    parts = np.split(b, 2) if interleave else [b]
    b_parts = tuple(QuantTensor.from_array(np.ascontiguousarray(part)) for part in parts)
    linear = AdaptedLinear(weight, QuantTensor.from_array(a), b_parts, interleave)
    packed = ops.pack_adapter([linear])
    ops.finish_packing()
    return packed


@pytest.mark.parametrize("rank", [1, 8, 33])
@pytest.mark.parametrize("num_rows", [1, 9, 40])
def test_products_are_added_to_their_rows_alone(
    ops: Ops, rng: np.random.Generator, num_rows: int, rank: int
) -> None:
    base, x = rows(rng, OUT, WIDTH), rows(rng, num_rows, WIDTH)
    weight = ops.pack_linear([QuantTensor.from_array(base)])
    a, b = draw(rng, rank)
    own = np.arange(0, num_rows, 2, dtype=np.int32)
    found = AdapterRows(adapter_of(ops, weight, a, b, interleave=False), own, own)
    plain = values_of(ops.linear(x, weight)).copy()
    actual = values_of(ops.adapted(step_of(num_rows, found)).linear(x, weight))
    added = (x.astype(np.float64) @ a.T.astype(np.float64)) @ b.T.astype(np.float64)
    expected = x.astype(np.float64) @ base.T + np.where(np.arange(num_rows) % 2, 0, 1)[:, None] * (
        added
    )
    assert np.abs(actual - expected).max() <= 3 * FLOAT32_ERROR * np.abs(expected).max()
    assert actual[1::2].tobytes() == plain[1::2].tobytes()


@pytest.mark.parametrize("name", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("format_name", ["f32", "q5_0"])
def test_gates_are_those_of_the_sums(
    cpu_ops: Ops, rng: np.random.Generator, format_name: str, name: str
) -> None:
    """Rows without an adapter keep the bits of the fused op; gates of both are the reference's."""
    x = rows(rng, 20, WIDTH)
    parts = [
        QuantTensor.from_array(rows(rng, OUT // 2, WIDTH))
        if format_name == "f32"
        else random_blocks(rng, format_name, (OUT // 2, WIDTH))
        for _ in range(2)
    ]
    weight = cpu_ops.pack_linear(parts, interleave=True)
    a, b = draw(rng, 4)
    own = np.arange(5, 17, dtype=np.int32)
    found = AdapterRows(adapter_of(cpu_ops, weight, a, b, interleave=True), own, own)
    adapted = cpu_ops.adapted(step_of(20, found))
    actual = values_of(adapted.gated_linear(x, weight, name))
    plain = values_of(cpu_ops.gated_linear(x, weight, name))
    others = np.setdiff1d(np.arange(20), own)
    assert actual[others].tobytes() == plain[others].tobytes()
    expected = ACTIVATIONS[name](values_of(adapted.linear(x, weight)).astype(np.float64))
    assert np.all(np.abs(actual - expected) <= FLOAT32_ERROR * (np.abs(expected) + 1e-3))
    assert np.abs(actual[own] - plain[own]).max() > 0.01


@pytest.mark.parametrize("rank", [3, 16, 40])
def test_a_row_does_not_depend_on_its_neighbours(
    cpu_ops: Ops, rng: np.random.Generator, rank: int
) -> None:
    """Alone, beside rows of its adapter, of another one and of none, and of a damaged one."""
    x = rows(rng, 37, WIDTH)
    x[6] = np.nan
    weight = cpu_ops.pack_linear([random_blocks(rng, "q8_0", (OUT, WIDTH))])
    one, other = (adapter_of(cpu_ops, weight, *draw(rng, rank), interleave=False) for _ in range(2))
    first, second = np.arange(0, 37, 3, dtype=np.int32), np.arange(1, 37, 3, dtype=np.int32)
    step = step_of(37, AdapterRows(one, first, first), AdapterRows(other, second, second))
    together = values_of(cpu_ops.adapted(step).linear(x, weight))
    for row in (0, 1, 2, 36):
        adapters = [AdapterRows(each, np.zeros(1, np.int32), NONE) for each in (one, other)]
        alone = step_of(1, *adapters[row % 3 : row % 3 + 1]) if row % 3 < 2 else step_of(1)
        y = values_of(cpu_ops.adapted(alone).linear(x[row : row + 1].copy(), weight))
        assert y.tobytes() == together[row].tobytes()
    assert np.isnan(together[6]).all()
    assert np.isfinite(np.delete(together, 6, axis=0)).all()
