"""moe on every implementation: against a dense sum over all experts, and row by row in bits."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.ops.protocol import Experts, Ops, Routing
from headrace.ops.reference.exact_math import exp32
from headrace.ops.reference.moe import choose
from headrace.quant.quant_tensor import QuantTensor
from kernels.cases import FLOAT32_ERROR, rows
from kernels.errors import values_of
from kernels.matmul_cases import random_blocks

WIDTH, INNER = 64, 96
ROUTINGS = (
    Routing(8, 2, is_normalized=True),
    Routing(8, 3, is_normalized=False),
    Routing(4, 4, is_normalized=True),
    Routing(1, 1, is_normalized=False),
)


def matrix(rng: np.random.Generator, shape: tuple[int, int], format_name: str) -> QuantTensor:
    if format_name == "f32":
        return QuantTensor.from_array(rows(rng, *shape) * np.float32(shape[1] ** -0.5))
    return random_blocks(rng, format_name, shape)


class Parts:
    """The matrices of a mixture, packed for any ops."""

    def __init__(
        self, rng: np.random.Generator, num_experts: int, format_name: str, has_shared: bool
    ) -> None:
        shapes = ((INNER, WIDTH), (INNER, WIDTH), (WIDTH, INNER))
        self.router = matrix(rng, (num_experts, WIDTH), "f32")
        self.experts = [
            [matrix(rng, shape, format_name) for shape in shapes]
            for _ in range(num_experts + has_shared)
        ]
        self.shared_router = matrix(rng, (1, WIDTH), "f32") if has_shared else None

    def pack(self, ops: Ops) -> Experts:
        gate_up = [ops.pack_linear(each[:2], interleave=True) for each in self.experts]
        down = [ops.pack_linear(each[2:]) for each in self.experts]
        count = self.router.shape[0]
        has_shared = self.shared_router is not None
        return Experts(
            ops.pack_linear([self.router]),
            tuple(gate_up[:count]),
            tuple(down[:count]),
            gate_up[-1] if has_shared else None,
            down[-1] if has_shared else None,
            ops.pack_linear([self.shared_router]) if has_shared else None,
        )

    def dense(self, x: np.ndarray, routing: Routing) -> np.ndarray:
        """Every expert of every row in float64, weighted by a softmax with the others at zero."""
        x = x.astype(np.float64)
        logits = x @ self.router.dequantize().astype(np.float64).T
        likelihood = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights = likelihood / likelihood.sum(axis=1, keepdims=True)
        smallest = np.sort(weights, axis=1)[:, -routing.num_chosen, None]
        weights = np.where(weights >= smallest, weights, 0)
        if routing.is_normalized:
            weights /= weights.sum(axis=1, keepdims=True)
        out = sum(weights[:, e, None] * self.expert(x, e) for e in range(routing.num_experts))
        if self.shared_router is not None:
            logit = x @ self.shared_router.dequantize().astype(np.float64).T
            out = out + self.expert(x, -1) / (1 + np.exp(-logit))
        return out

    def expert(self, x: np.ndarray, index: int) -> np.ndarray:
        gate, up, down = (part.dequantize().astype(np.float64) for part in self.experts[index])
        pre = x @ gate.T
        return (pre / (1 + np.exp(-pre)) * (x @ up.T)) @ down.T


@pytest.mark.parametrize("has_shared", [False, True])
@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
@pytest.mark.parametrize("num_rows", [0, 1, 33])
def test_it_is_the_weighted_sum_of_the_chosen(
    ops: Ops, rng: np.random.Generator, num_rows: int, routing: Routing, has_shared: bool
) -> None:
    parts = Parts(rng, routing.num_experts, "f32", has_shared)
    x = rows(rng, num_rows, WIDTH)
    actual = values_of(ops.moe(x, parts.pack(ops), routing, "silu"))
    assert actual.shape == (num_rows, WIDTH)
    if num_rows:
        expected = parts.dense(x, routing)
        assert np.abs(actual - expected).max() <= 3 * FLOAT32_ERROR * np.abs(expected).max()


@pytest.mark.parametrize("format_name", ["f32", "q8_0", "q5_0"])
def test_a_row_does_not_depend_on_its_neighbours(
    cpu_ops: Ops, rng: np.random.Generator, format_name: str
) -> None:
    """Alone, in another order, beside rows that all choose one expert, and beside a damaged one."""
    routing = ROUTINGS[1]
    experts = Parts(rng, routing.num_experts, format_name, has_shared=True).pack(cpu_ops)
    x = rows(rng, 40, WIDTH)
    x[20:] = x[3]
    x[7] = np.nan
    together = values_of(cpu_ops.moe(x, experts, routing, "silu"))
    order = rng.permutation(40)
    shuffled = values_of(cpu_ops.moe(x[order], experts, routing, "silu"))
    assert shuffled.tobytes() == together[order].tobytes()
    for row in (0, 3, 19, 39):
        alone = values_of(cpu_ops.moe(x[row : row + 1].copy(), experts, routing, "silu"))
        assert alone.tobytes() == together[row].tobytes()
    assert np.isnan(together[7]).all()
    assert np.isfinite(np.delete(together, 7, axis=0)).all()


def test_equal_logits_choose_the_lower_experts() -> None:
    logits = np.array([[1, 3, 3, 3, 0], [0, 0, 0, 0, 0]], np.float32)
    chosen, weights = choose(logits, Routing(5, 2, is_normalized=True), exp32)
    assert chosen.tolist() == [[1, 2], [0, 1]]
    assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
