"""Rotary embedding with and without norms of q and k, on every implementation."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from headrace.ops.cpu.rope_fill import RopeFill
from headrace.ops.protocol import AttentionSpec, Ops, RopeParams
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.ops.reference.rope import RopeTable, rope_table
from kernels.cases import FLOAT32_ERROR, rows, spec
from kernels.errors import largest_error

SPECS = (spec(14, 2, 64), spec(4, 1, 256), spec(4, 2, 80), spec(2, 2, 128), spec(4, 2, 16))


@cache
def table(ops: Ops, params: RopeParams) -> RopeTable:
    """As a model has it: made once, and read by every row."""
    return ops.rope_table(params)


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("part", [1.0, 0.5])
@pytest.mark.parametrize("attention", SPECS, ids=lambda s: f"d{s.head_size}")
@pytest.mark.parametrize("num_rows", [0, 1, 5, 40])
def test_rope(
    ops: Ops,
    exact_ops: ReferenceOps,
    rng: np.random.Generator,
    num_rows: int,
    attention: AttentionSpec,
    part: float,
    with_norm: bool,
) -> None:
    size = attention.head_size
    params = RopeParams(1e6, int(size * part), 4096)
    qkv = rows(rng, num_rows, attention.qkv_width, "outliers")
    positions = rng.integers(0, 4096, num_rows).astype(np.int32)
    norms = [rows(rng, 1, size)[0] for _ in range(2)] if with_norm else [None, None]
    expected = qkv.astype(np.float64)
    exact_ops.rope(expected, positions, table(exact_ops, params), attention, *norms, eps=1e-6)
    before = qkv.copy()
    ops.rope(qkv, positions, table(ops, params), attention, *norms, eps=1e-6)
    assert largest_error(qkv, expected) < FLOAT32_ERROR
    values = (attention.num_heads + attention.num_kv_heads) * size
    np.testing.assert_array_equal(qkv[:, values:], before[:, values:])


def test_rotation_keeps_length_and_depends_on_distance(ops: Ops, rng: np.random.Generator) -> None:
    attention = spec(1, 1, 64)
    table = ops.rope_table(RopeParams(1e4, 64, 512))
    q, k = rows(rng, 2, 64)

    def score(q_position: int, k_position: int) -> float:
        qkv = np.concatenate([q, k, k]).reshape(1, -1).repeat(2, axis=0)
        ops.rope(qkv, np.array([q_position, k_position], np.int32), table, attention)
        return float(qkv[0, :64].astype(np.float64) @ qkv[1, 64:128])

    assert score(7, 3) == pytest.approx(score(404, 400), rel=1e-4)
    assert score(7, 3) != pytest.approx(score(7, 40), rel=1e-2)


def test_factors_and_attention_factor(ops: Ops) -> None:
    attention = spec(1, 1, 16)
    qkv = np.zeros((1, 48), np.float32)
    qkv[0, 0] = 1.0
    table = ops.rope_table(RopeParams(1e4, 16, 64, factors=(8.0,) * 8, attention_factor=1.5))
    ops.rope(qkv, np.array([16], np.int32), table, attention)
    assert qkv[0, 0] == pytest.approx(1.5 * np.cos(2.0), rel=1e-6)
    assert qkv[0, 8] == pytest.approx(1.5 * np.sin(2.0), rel=1e-6)


@pytest.mark.parametrize("position", [-1, 64])
def test_position_outside_the_table(ops: Ops, position: int) -> None:
    table = ops.rope_table(RopeParams(1e4, 16, 64))
    with pytest.raises(IndexError, match="position"):
        ops.rope(
            np.zeros((1, 48), np.float32), np.array([position], np.int32), table, spec(1, 1, 16)
        )


def test_a_table_is_filled_as_far_as_it_is_read() -> None:
    """The first position of a long table, one further on, and the last."""
    params = RopeParams(1e6, 64, 50_000, attention_factor=1.2)
    whole = rope_table(params)
    fill = RopeFill(params)
    for position in (0, 1023, 1024, 7, 5000, 49_999):
        assert not fill.is_done
        fill.fill(np.array([0, position], np.int32))
        np.testing.assert_array_equal(fill.table.cos[: position + 1], whole.cos[: position + 1])
    assert fill.is_done
    np.testing.assert_array_equal(fill.table.sin, whole.sin)


def test_a_table_can_be_filled_at_once() -> None:
    params = RopeParams(1e6, 64, 3000)
    fill = RopeFill(params)
    fill.fill(np.array([], np.int32))
    assert not fill.is_done
    fill.fill()
    assert fill.is_done
    np.testing.assert_array_equal(fill.table.cos, rope_table(params).cos)


def test_a_position_outside_the_table_fills_all_of_it() -> None:
    fill = RopeFill(RopeParams(1e6, 64, 3000))
    fill.fill(np.array([3000], np.int32))
    assert fill.is_done
