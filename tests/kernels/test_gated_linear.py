"""gated_linear on every implementation: the activation itself, and the linear it ends."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.ops.protocol import Activation, Ops
from headrace.ops.reference.activation import ACTIVATIONS
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.quant.quant_tensor import QuantTensor
from kernels.cases import FLOAT32_ERROR, ROW_COUNTS, rows
from kernels.errors import values_of
from kernels.matmul_cases import random_blocks

INNER_WIDTHS = (16, 48, 4864, 8960)
NAMES: tuple[Activation, ...] = ("silu", "gelu_tanh")


def extremes(gate: np.ndarray) -> np.ndarray:
    """Put the values where exp and tanh saturate into the first gates."""
    special = np.array([0.0, -0.0, 1e-30, -1e-30, 20, -20, 90, -90, 200, -200, 1e4, -1e4], "f4")
    gate[:, : len(special)] = special
    return gate


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    # Element by element: the saturated values would hide an error of the others.
    assert np.all(np.abs(actual - expected) <= FLOAT32_ERROR * (np.abs(expected) + 1e-3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("inner", INNER_WIDTHS)
@pytest.mark.parametrize("num_rows", ROW_COUNTS)
def test_activation(
    ops: Ops,
    exact_ops: ReferenceOps,
    rng: np.random.Generator,
    num_rows: int,
    inner: int,
    name: Activation,
) -> None:
    gate, up = extremes(rows(rng, num_rows, inner)), rows(rng, num_rows, inner)
    # The rows of a unit matrix: the linear gives gate and up as they are.
    x = np.eye(max(num_rows, 1), dtype=np.float32)[:num_rows]
    parts = [
        QuantTensor.from_array(np.ascontiguousarray(np.resize(part, (max(num_rows, 1), inner)).T))
        for part in (gate, up)
    ]
    expected = exact_ops.gated_linear(
        x.astype(np.float64), exact_ops.pack_linear(parts, interleave=True), name
    )
    actual = values_of(ops.gated_linear(x, ops.pack_linear(parts, interleave=True), name))
    assert actual.shape == (num_rows, inner)
    assert_close(actual, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("formats", [("q5_0", "q5_0"), ("q4_k", "q6_k")])
@pytest.mark.parametrize("num_rows", [1, 7, 16, 33, 300])
def test_it_is_the_activation_of_the_linear(
    cpu_ops: Ops,
    rng: np.random.Generator,
    num_rows: int,
    formats: tuple[str, str],
    name: Activation,
) -> None:
    """1,280 inputs are more than one block of groups."""
    parts = [random_blocks(rng, format_name, (176, 1280)) for format_name in formats]
    weight = cpu_ops.pack_linear(parts, interleave=True)
    x = rows(rng, num_rows, 1280)
    gate_up = values_of(cpu_ops.linear(x, weight)).astype(np.float64)
    actual = values_of(cpu_ops.gated_linear(x, weight, name))
    assert_close(actual, ACTIVATIONS[name](gate_up))
    alone = values_of(cpu_ops.gated_linear(x[-1:].copy(), weight, name))
    assert alone.tobytes() == actual[-1].tobytes()


@pytest.mark.parametrize("formats", [("q5_0", "q5_0"), ("q4_k", "q6_k"), ("f32", "f32")])
@pytest.mark.parametrize("num_rows", [0, 1, 8, 9, 16, 33, 256, 261])
def test_a_reader_gets_the_same_bits(
    cpu_ops: Ops, rng: np.random.Generator, num_rows: int, formats: tuple[str, str]
) -> None:
    """The result in the reader's own form against the floats; 261 rows end with a tile of 5."""

    def part(format_name: str, shape: tuple[int, int]) -> QuantTensor:
        if format_name == "f32":
            return QuantTensor.from_array(rows(rng, *shape))
        return random_blocks(rng, format_name, shape)

    parts = [part(format_name, (320, 1280)) for format_name in formats]
    biases = [QuantTensor.from_array(rows(rng, 1, 320)[0]) for _ in parts]
    weight = cpu_ops.pack_linear(parts, biases, interleave=True)
    x = rows(rng, num_rows, 1280, "outliers")
    if num_rows > 20:
        x[17] = np.nan
        x[3] = 0
    for reader_format in ("q5_0", "f32"):
        reader = cpu_ops.pack_linear([part(reader_format, (48, 320))])
        plain = cpu_ops.linear(cpu_ops.gated_linear(x, weight, "silu"), reader)
        handed = cpu_ops.linear(cpu_ops.gated_linear(x, weight, "silu", reader), reader)
        assert values_of(handed).tobytes() == values_of(plain).tobytes()


def test_columns_that_do_not_pair_are_refused(cpu_ops: Ops, rng: np.random.Generator) -> None:
    weight = cpu_ops.pack_linear([QuantTensor.from_array(rows(rng, 24, 8))])
    with pytest.raises(ValueError, match="multiple of 16"):
        cpu_ops.gated_linear(rows(rng, 3, 8), weight, "silu")
