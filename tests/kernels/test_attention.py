"""Paged attention and store_kv: error against float64, and equality of bits over ways to batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrace.ops.protocol import AttentionSpec, KVCache, KVCacheDtype, Ops
from headrace.ops.reference.reference_ops import ReferenceOps
from kernels.cases import (
    ATTENTION_BF16_ERROR,
    ATTENTION_BF16_RMS_ERROR,
    ATTENTION_CASES,
    ATTENTION_FLOAT_ERROR,
    AttentionCase,
    AttentionInputs,
    attention_inputs,
    spec,
)
from kernels.conftest import Once
from kernels.errors import largest_error, rms_error, values_of

DTYPES: tuple[KVCacheDtype, ...] = ("bf16", "int8")

FLOAT8_ERROR = 0.2
"""Keys and values with three bits after the first: 2^-4 at the most each, 0.03 rms."""

ROUNDING_TIERS = ("amx", "bf16")
"""They round queries and weights to bf16."""

FLOAT8_CASES = tuple(
    case for case in ATTENTION_CASES if sum(past + new for past, new in case.requests) < 250
)
"""The interpreter runs a program for each token and head that is written."""


def run(ops: Ops, case: AttentionCase, inputs: AttentionInputs, dtype: KVCacheDtype) -> np.ndarray:
    """Fill a poisoned cache with the past, store the step's rows, attend."""
    cache = ops.allocate_kv([case.spec], inputs.num_blocks, inputs.block_size, dtype)
    layer = cache.layers[0]
    all_slots = np.arange(inputs.num_blocks * inputs.block_size, dtype=np.int32)
    nan = np.full((len(all_slots), case.spec.qkv_width), np.nan, np.float32)
    float_type = getattr(ops, "dtype", np.float32)
    ops.store_kv(nan.astype(float_type), layer, all_slots, case.spec)
    ops.store_kv(inputs.past_qkv.astype(float_type), layer, inputs.past_slots, case.spec)
    qkv = inputs.qkv.astype(float_type)
    ops.store_kv(qkv, layer, inputs.step.slot_mapping, case.spec)
    return values_of(ops.attention(qkv, layer, inputs.step, case.spec))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ATTENTION_CASES, ids=str)
def test_attention(
    ops: Ops,
    exact_ops: ReferenceOps,
    rng: np.random.Generator,
    once: Once,
    case: AttentionCase,
    dtype: KVCacheDtype,
) -> None:
    inputs = attention_inputs(case, rng)
    expected = once(lambda: run(exact_ops, case, inputs, dtype))
    actual = run(ops, case, inputs, dtype)
    assert actual.shape == (len(inputs.qkv), case.spec.num_heads * case.spec.head_size)
    if ops.name.endswith(ROUNDING_TIERS):
        assert largest_error(actual, expected) < ATTENTION_BF16_ERROR
        assert rms_error(actual, expected) < ATTENTION_BF16_RMS_ERROR
    else:
        assert largest_error(actual, expected) < ATTENTION_FLOAT_ERROR


@pytest.mark.parametrize("case", FLOAT8_CASES, ids=str)
def test_attention_over_floats_of_8_bits(
    float8_ops: Ops, exact_ops: ReferenceOps, rng: np.random.Generator, case: AttentionCase
) -> None:
    """The rounding is the definition's; what rounding costs is seen beside the bf16 cache."""
    inputs = attention_inputs(case, rng)
    expected = run(exact_ops, case, inputs, "fp8")
    assert largest_error(run(float8_ops, case, inputs, "fp8"), expected) < ATTENTION_FLOAT_ERROR
    if expected.size:
        exact = run(exact_ops, case, inputs, "bf16")
        assert 1e-4 < rms_error(expected, exact) < FLOAT8_ERROR


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 8.0])
def test_flat_and_sharp_softmax(
    ops: Ops,
    exact_ops: ReferenceOps,
    rng: np.random.Generator,
    once: Once,
    scale: float,
    dtype: KVCacheDtype,
) -> None:
    case = AttentionCase("sharp", spec(14, 2, 64), ((100, 1), (0, 70), (700, 2)))
    inputs = attention_inputs(case, rng, scale)
    expected = once(lambda: run(exact_ops, case, inputs, dtype))
    error = largest_error(run(ops, case, inputs, dtype), expected)
    # A sharp softmax turns the absolute error of its scores, up to 64 * 8 * 8, into a relative one.
    is_rounding = ops.name.endswith(ROUNDING_TIERS)
    limit = ATTENTION_BF16_ERROR if is_rounding else ATTENTION_FLOAT_ERROR * 20
    assert error < limit


BIT_SPECS = (
    spec(7, 1, 64),
    spec(6, 1, 128),
    spec(4, 1, 256, window=100),
    spec(4, 2, 64, soft_cap=30.0, window=600),
)


@pytest.mark.parametrize("attention", BIT_SPECS, ids=lambda s: f"d{s.head_size}-w{s.window}")
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_give_the_same_bits(
    cpu_ops: Ops, rng: np.random.Generator, attention, dtype: KVCacheDtype
) -> None:
    total = 600
    case = AttentionCase("whole", attention, ((0, total),))
    inputs = attention_inputs(case, rng)
    whole = run(cpu_ops, case, inputs, dtype)
    for chunk in (1, 7, 64, 333):
        cache = cpu_ops.allocate_kv([attention], inputs.num_blocks, inputs.block_size, dtype)
        check_chunks(cpu_ops, inputs, attention, cache, chunk, whole)


def check_chunks(
    cpu_ops: Ops,
    inputs: AttentionInputs,
    attention: AttentionSpec,
    cache: KVCache,
    chunk: int,
    whole: np.ndarray,
) -> None:
    """A prompt in chunks of this size, in an empty cache, has the rows of the whole."""
    layer, total = cache.layers[0], len(whole)
    for start in range(0, total, chunk):
        if chunk == 1 and 40 < start < 480:  # every place in a tile is seen without these
            part = slice(start, start + 1)
            cpu_ops.store_kv(
                inputs.qkv[part].copy(), layer, inputs.step.slot_mapping[part], attention
            )
            continue
        end = min(start + chunk, total)
        step = replace(
            inputs.step,
            positions=np.arange(start, end, dtype=np.int32),
            slot_mapping=inputs.step.slot_mapping[start:end].copy(),
            query_start=np.array([0, end - start], np.int32),
            seq_lens=np.array([end], np.int32),
        )
        qkv = inputs.qkv[start:end].copy()
        cpu_ops.store_kv(qkv, layer, step.slot_mapping, attention)
        rows = values_of(cpu_ops.attention(qkv, layer, step, attention))
        assert rows.tobytes() == whole[start:end].tobytes(), f"by {chunk}, rows {start}:{end}"


@pytest.mark.parametrize("attention", BIT_SPECS, ids=lambda s: f"d{s.head_size}-w{s.window}")
@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_do_not_matter(
    cpu_ops: Ops, rng: np.random.Generator, attention, dtype: KVCacheDtype
) -> None:
    case = AttentionCase("batch", attention, ((100, 1), (0, 70), (600, 5), (37, 40), (0, 1)))
    inputs = attention_inputs(case, rng)
    cache = cpu_ops.allocate_kv([attention], inputs.num_blocks, inputs.block_size, dtype)
    layer = cache.layers[0]
    cpu_ops.store_kv(inputs.past_qkv, layer, inputs.past_slots, attention)
    cpu_ops.store_kv(inputs.qkv, layer, inputs.step.slot_mapping, attention)
    whole = values_of(cpu_ops.attention(inputs.qkv, layer, inputs.step, attention))
    for r in range(len(case.requests)):
        rows = slice(*inputs.step.query_start[r : r + 2])
        alone = replace(
            inputs.step,
            positions=inputs.step.positions[rows].copy(),
            slot_mapping=inputs.step.slot_mapping[rows].copy(),
            query_start=np.array([0, rows.stop - rows.start], np.int32),
            seq_lens=inputs.step.seq_lens[r : r + 1].copy(),
            block_table=inputs.step.block_table[r : r + 1].copy(),
        )
        result = values_of(cpu_ops.attention(inputs.qkv[rows].copy(), layer, alone, attention))
        assert result.tobytes() == whole[rows].tobytes(), f"request {r}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_places_in_a_large_cache_do_not_matter(
    ops: Ops, rng: np.random.Generator, dtype: KVCacheDtype
) -> None:
    """Keys and values of several MB, whose first 64 KB are in pages of another size on the CPU."""
    if not ops.name.startswith("cpu"):
        pytest.skip("its keys are in pages of one size")
    case = max(ATTENTION_CASES, key=lambda case: case.spec.num_kv_heads * case.spec.head_size)
    inputs = attention_inputs(case, rng)
    block_bytes = inputs.block_size * case.spec.num_kv_heads * case.spec.head_size  # at least
    num_blocks = 2 * (2 * 2**20) // block_bytes + inputs.num_blocks
    results = []
    for first in (0, 2**18 // (2 * block_bytes), num_blocks - inputs.num_blocks):
        table = inputs.step.block_table
        slots = first * inputs.block_size
        step = replace(
            inputs.step,
            block_table=np.where(table < 0, table, table + first).astype(np.int32),
            slot_mapping=inputs.step.slot_mapping + np.int32(slots),
        )
        moved = replace(
            inputs, step=step, past_slots=inputs.past_slots + np.int32(slots), num_blocks=num_blocks
        )
        results.append(run(ops, case, moved, dtype))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
