"""layer_norm, gelu, relu and attention_packed, on every implementation."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.ops.protocol import Ops
from headrace.ops.reference.reference_ops import ReferenceOps
from kernels.cases import FLOAT32_ERROR, ROW_COUNTS, WIDTHS, rows, spec
from kernels.errors import largest_error, values_of

EPS = 1e-12
SEQUENCES = ((1,), (16,), (17, 0, 1), (130, 3, 64), (300,), ())
"""Tokens of each sequence: vector and item edges, one that is empty, no sequence."""


def starts(lengths: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


@pytest.mark.parametrize("kind", ["normal", "shifted", "outliers"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("num_rows", ROW_COUNTS)
def test_layer_norm(
    ops: Ops,
    exact_ops: ReferenceOps,
    rng: np.random.Generator,
    num_rows: int,
    width: int,
    kind: str,
) -> None:
    h = rows(rng, num_rows, width, "normal" if kind == "shifted" else kind)
    h += np.float32(20 if kind == "shifted" else 0)
    weight, bias, before = rows(rng, 1, width)[0], rows(rng, 1, width)[0], h.copy()
    whole = (each.astype(np.float64) for each in (h, weight, bias))
    expected = exact_ops.layer_norm(*whole, EPS)
    # A mean that is many times the deviation takes as many bits of it.
    allowed = 20 * FLOAT32_ERROR if kind == "shifted" else FLOAT32_ERROR
    assert largest_error(ops.layer_norm(h, weight, bias, EPS), expected) < allowed
    np.testing.assert_array_equal(h, before)


def test_layer_norm_adds_first(ops: Ops, rng: np.random.Generator) -> None:
    h, add, weight, bias = (rows(rng, n, 384) for n in (5, 5, 1, 1))
    both = ops.layer_norm(h, weight[0], bias[0], EPS, add=add)
    np.testing.assert_array_equal(both, ops.layer_norm(h + add, weight[0], bias[0], EPS))


def test_layer_norm_of_equal_numbers_is_the_bias(ops: Ops, rng: np.random.Generator) -> None:
    bias = rows(rng, 1, 80)[0]
    h = np.full((3, 80), 0.5, np.float32)
    np.testing.assert_array_equal(ops.layer_norm(h, bias, bias, EPS), np.tile(bias, (3, 1)))


@pytest.mark.parametrize("shape", [(1, 1), (3, 80), (7, 1536), (33, 1000)])
def test_gelu(
    ops: Ops, exact_ops: ReferenceOps, rng: np.random.Generator, shape: tuple[int, int]
) -> None:
    x = rows(rng, *shape) * np.float32(3)
    expected = exact_ops.gelu(x.astype(np.float64))
    result = ops.gelu(x)
    assert result is x
    assert largest_error(result, expected) < FLOAT32_ERROR


def test_gelu_far_from_zero(ops: Ops) -> None:
    x = np.array([[-1e30, -200.0, -30.0, -8.0, -0.0, 0.0, 8.0, 30.0, 1e30]], np.float32)
    result = ops.gelu(x.copy())[0]
    np.testing.assert_allclose(result[:4], 0, atol=1e-10)
    np.testing.assert_array_equal(result[4:6], 0)
    np.testing.assert_allclose(result[6:], x[0, 6:], rtol=1e-6)


def test_relu(ops: Ops) -> None:
    x = np.array([[-1e30, -1.5, -0.0, 0.0, 1.5, 2e5, np.inf, np.nan]], np.float32)
    result = ops.relu(x)
    assert result is x
    np.testing.assert_array_equal(result, [[0, 0, 0, 0, 1.5, 2e5, np.inf, np.nan]])


@pytest.mark.parametrize("heads, size", [(2, 32), (3, 64), (2, 20), (1, 5)])
@pytest.mark.parametrize("lengths", SEQUENCES, ids=str)
def test_attention_packed(
    ops: Ops,
    exact_ops: ReferenceOps,
    rng: np.random.Generator,
    lengths: tuple[int, ...],
    heads: int,
    size: int,
) -> None:
    attention = spec(heads, heads, size)
    qkv = rows(rng, sum(lengths), attention.qkv_width) * np.float32(2)
    expected = exact_ops.attention_packed(qkv.astype(np.float64), starts(lengths), attention)
    result = values_of(ops.attention_packed(qkv, starts(lengths), attention))
    assert largest_error(result, expected) < 2 * FLOAT32_ERROR


def test_sequences_do_not_see_each_other(cpu_ops: Ops, rng: np.random.Generator) -> None:
    attention, lengths = spec(4, 4, 32), (19, 200, 1, 64)
    qkv = rows(rng, sum(lengths), attention.qkv_width)
    whole = values_of(cpu_ops.attention_packed(qkv, starts(lengths), attention))
    at = 0
    for length in lengths:
        part = qkv[at : at + length].copy()
        alone = values_of(cpu_ops.attention_packed(part, starts((length,)), attention))
        assert alone.tobytes() == whole[at : at + length].tobytes()
        at += length


def test_sequences_must_fill_the_rows(cpu_ops: Ops, rng: np.random.Generator) -> None:
    qkv, attention = rows(rng, 8, 3 * 64), spec(2, 2, 32)
    for wrong in ([0, 7], [1, 8], [0, 9, 8], []):
        with pytest.raises(ValueError, match="query_start"):
            cpu_ops.attention_packed(qkv, np.array(wrong, np.int32), attention)
