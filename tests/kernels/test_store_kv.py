"""store_kv: what it writes, what it leaves alone, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrace.core.errors import ConfigError
from headrace.ops.protocol import KVCacheDtype, Ops
from kernels.cases import AttentionCase, attention_inputs, spec
from kernels.errors import largest_error, values_of

SPEC = spec(4, 2, 64)


def attend_last(ops: Ops, inputs, layer) -> np.ndarray:
    return values_of(ops.attention(inputs.qkv, layer, inputs.step, SPEC))


def test_skipped_rows_change_nothing(ops: Ops, rng: np.random.Generator) -> None:
    case = AttentionCase("skip", SPEC, ((90, 1),))
    inputs = attention_inputs(case, rng)
    layer = ops.allocate_kv([SPEC], inputs.num_blocks, inputs.block_size).layers[0]
    ops.store_kv(inputs.past_qkv, layer, inputs.past_slots, SPEC)
    ops.store_kv(inputs.qkv, layer, inputs.step.slot_mapping, SPEC)
    before = attend_last(ops, inputs, layer)
    noise = np.full_like(inputs.past_qkv, 7.0)
    ops.store_kv(noise, layer, np.full(len(noise), -1, np.int32), SPEC)
    assert attend_last(ops, inputs, layer).tobytes() == before.tobytes()


def test_order_of_writing_does_not_matter(ops: Ops, rng: np.random.Generator) -> None:
    case = AttentionCase("order", SPEC, ((90, 1),))
    inputs = attention_inputs(case, rng)
    results = []
    for order in (np.arange(90), rng.permutation(90)):
        layer = ops.allocate_kv([SPEC], inputs.num_blocks, inputs.block_size).layers[0]
        ops.store_kv(inputs.past_qkv[order].copy(), layer, inputs.past_slots[order].copy(), SPEC)
        ops.store_kv(inputs.qkv, layer, inputs.step.slot_mapping, SPEC)
        results.append(attend_last(ops, inputs, layer))
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_a_copied_block_has_the_same_bits(
    ops: Ops, dtype: KVCacheDtype, rng: np.random.Generator
) -> None:
    """Blocks of a sequence move to others, one of them to where another one was; they are read
    there, after noise is written to where they were."""
    inputs = attention_inputs(AttentionCase("copy", SPEC, ((90, 3),)), rng)
    cache = ops.allocate_kv([SPEC, SPEC], inputs.num_blocks, inputs.block_size, dtype)
    for layer in cache.layers:
        ops.store_kv(inputs.past_qkv, layer, inputs.past_slots, SPEC)
        ops.store_kv(inputs.qkv, layer, inputs.step.slot_mapping, SPEC)
    before = attend_last(ops, inputs, cache.layers[1])
    used = inputs.step.block_table[0, :3].tolist()
    spare = sorted(set(range(inputs.num_blocks)) - set(used))
    pairs = [(used[0], spare[0]), (used[1], used[0]), (used[2], spare[1])]
    ops.copy_blocks(cache, pairs)
    noise = np.full_like(inputs.past_qkv[:32], 7.0)
    slots = (used[2] * inputs.block_size + np.arange(32)).astype(np.int32)
    ops.store_kv(noise, cache.layers[1], slots, SPEC)
    table = inputs.step.block_table.copy()
    table[0, :3] = [to for _, to in pairs]
    inputs = replace(inputs, step=replace(inputs.step, block_table=table))
    assert attend_last(ops, inputs, cache.layers[1]).tobytes() == before.tobytes()


def test_blocks_that_are_not_there_are_not_copied(cpu_ops: Ops) -> None:
    cache = cpu_ops.allocate_kv([SPEC], 4, 32)
    for pair in ((4, 0), (0, -1)):
        with pytest.raises(IndexError):
            cpu_ops.copy_blocks(cache, [pair])


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_shifted_keys_give_the_same_attention(
    ops: Ops, dtype: KVCacheDtype, rng: np.random.Generator
) -> None:
    """Keys with a large part in common: shifted they are as exact as without it, unshifted not."""
    inputs = attention_inputs(AttentionCase("shift", SPEC, ((90, 3),)), rng)
    keys = slice(SPEC.num_heads * SPEC.head_size, 6 * SPEC.head_size)
    common = np.zeros(2 * SPEC.head_size, np.float32)
    common[[3, 40, 64, 127]] = 150.0, -90.0, 60.0, 210.0
    found = []
    for part, shift in ((0 * common, None), (common, common), (common, None)):
        layer = ops.allocate_kv([SPEC], inputs.num_blocks, inputs.block_size, dtype).layers[0]
        past, now = inputs.past_qkv.copy(), inputs.qkv.copy()
        past[:, keys] += part
        now[:, keys] += part
        ops.store_kv(past, layer, inputs.past_slots, SPEC, shift)
        ops.store_kv(now, layer, inputs.step.slot_mapping, SPEC, shift)
        found.append(values_of(ops.attention(inputs.qkv, layer, inputs.step, SPEC)))
    plain, shifted, unshifted = found
    assert largest_error(shifted, plain) < 0.01
    if not ops.name.startswith("reference") or dtype == "int8":
        assert largest_error(unshifted, plain) > 3 * largest_error(shifted, plain)


def test_a_shift_of_another_size_is_refused(cpu_ops: Ops) -> None:
    layer = cpu_ops.allocate_kv([SPEC], 4, 32).layers[0]
    qkv, slots = np.zeros((1, SPEC.qkv_width), np.float32), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="key_shift"):
        cpu_ops.store_kv(qkv, layer, slots, SPEC, np.zeros(64, np.float32))


@pytest.mark.parametrize("slot", [-2, 4 * 32])
def test_slot_outside_the_cache(ops: Ops, slot: int) -> None:
    layer = ops.allocate_kv([SPEC], 4, 32).layers[0]
    with pytest.raises(IndexError, match="slot"):
        ops.store_kv(np.zeros((1, SPEC.qkv_width), np.float32), layer, np.array([slot], "i4"), SPEC)


def test_blocks_that_do_not_hold_the_sequence(ops: Ops, rng: np.random.Generator) -> None:
    inputs = attention_inputs(AttentionCase("bad", SPEC, ((90, 1),)), rng)
    layer = ops.allocate_kv([SPEC], inputs.num_blocks, inputs.block_size).layers[0]
    inputs.step.block_table[0, 1] = inputs.num_blocks
    with pytest.raises(IndexError, match="block table"):
        attend_last(ops, inputs, layer)
    inputs.step.block_table[0, 1] = -1
    with pytest.raises(IndexError, match="block table"):
        attend_last(ops, inputs, layer)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_bytes_are_those_of_the_plan(ops: Ops, dtype: KVCacheDtype) -> None:
    specs = [SPEC, spec(4, 1, 256), replace(SPEC, has_uneven_keys=True)]
    cache = ops.allocate_kv(specs, 5, 32, dtype)
    assert cache.num_bytes == 5 * ops.kv_bytes_per_block(specs, 32, dtype)
    allocated = sum(getattr(layer, "num_bytes", 0) for layer in cache.layers)
    assert allocated in (0, cache.num_bytes)
    assert (cache.num_blocks, cache.block_size, len(cache.layers)) == (5, 32, 3)


def test_int8_takes_about_half(cpu_ops: Ops) -> None:
    """A scale of 4 bytes beside 64 or 128 values; keys that stay in bf16 are counted as such."""
    for size in (64, 128):
        plain = cpu_ops.kv_bytes_per_block([spec(4, 2, size)], 32)
        small = cpu_ops.kv_bytes_per_block([spec(4, 2, size)], 32, "int8")
        assert small / plain == (size + 4) / (2 * size)
        uneven = cpu_ops.kv_bytes_per_block([spec(4, 2, size, has_uneven_keys=True)], 32, "int8")
        assert uneven == (plain + small) // 2


def test_floats_of_8_bits_are_refused_where_no_kernel_reads_them(cpu_ops: Ops) -> None:
    for call in (
        lambda: cpu_ops.kv_bytes_per_block([SPEC], 32, "fp8"),
        lambda: cpu_ops.allocate_kv([SPEC], 4, 32, "fp8"),
    ):
        with pytest.raises(ConfigError, match=r"kv_cache_dtype.*fp8.*int8 takes as little"):
            call()


def test_floats_of_8_bits_keep_uneven_keys(float8_ops: Ops, rng: np.random.Generator) -> None:
    """As small as int8 without them, and right where one dim is hundreds of times the others."""
    uneven = replace(SPEC, has_uneven_keys=True)
    int8 = float8_ops.kv_bytes_per_block([SPEC], 32, "int8")
    assert float8_ops.kv_bytes_per_block([uneven], 32, "fp8") == int8
    inputs = attention_inputs(AttentionCase("uneven", SPEC, ((90, 1),)), rng)
    for dim in (3, 70):  # of both KV heads: the queries do not see it
        inputs.past_qkv[:, 4 * 64 + dim] = inputs.qkv[:, 4 * 64 + dim] = 300.0
        inputs.qkv[:, dim % 64 : 4 * 64 : 64] = 0.0
    found = {}
    for dtype in ("bf16", "fp8", "int8"):
        layer = float8_ops.allocate_kv([SPEC], inputs.num_blocks, inputs.block_size, dtype).layers
        float8_ops.store_kv(inputs.past_qkv, layer[0], inputs.past_slots, SPEC)
        float8_ops.store_kv(inputs.qkv, layer[0], inputs.step.slot_mapping, SPEC)
        found[dtype] = attend_last(float8_ops, inputs, layer[0])
    assert largest_error(found["fp8"], found["bf16"]) < 0.1
    assert largest_error(found["int8"], found["bf16"]) > largest_error(found["fp8"], found["bf16"])


@pytest.mark.parametrize("damage", [np.nan, np.inf])
@pytest.mark.parametrize("is_value", [False, True])
def test_float8_does_not_hide_damage(
    float8_ops: Ops, rng: np.random.Generator, damage: float, is_value: bool
) -> None:
    check_damage(float8_ops, rng, damage, is_value, "fp8")


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30])
def test_float8_of_tiny_and_huge_heads(
    float8_ops: Ops, rng: np.random.Generator, size: float
) -> None:
    check_sizes(float8_ops, rng, size, "fp8")


@pytest.mark.parametrize("damage", [np.nan, np.inf])
@pytest.mark.parametrize("is_value", [False, True])
def test_int8_does_not_hide_damage(
    ops: Ops, rng: np.random.Generator, damage: float, is_value: bool
) -> None:
    check_damage(ops, rng, damage, is_value, "int8")


def check_damage(
    ops: Ops, rng: np.random.Generator, damage: float, is_value: bool, dtype: KVCacheDtype
) -> None:
    """A key or value that is no number makes the rows that see it no numbers, as in bf16."""
    inputs = attention_inputs(AttentionCase("damage", SPEC, ((40, 1),)), rng)
    layer = ops.allocate_kv([SPEC], inputs.num_blocks, inputs.block_size, dtype).layers[0]
    inputs.past_qkv[7, (4 + 2 * is_value) * 64 + 5] = damage
    ops.store_kv(inputs.past_qkv, layer, inputs.past_slots, SPEC)
    ops.store_kv(inputs.qkv, layer, inputs.step.slot_mapping, SPEC)
    with np.errstate(invalid="ignore"):
        rows = attend_last(ops, inputs, layer).reshape(4, 64)
    assert np.isnan(rows[:2]).all()
    assert np.isfinite(rows[2:]).all()


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30])
def test_int8_of_tiny_and_huge_heads(ops: Ops, rng: np.random.Generator, size: float) -> None:
    check_sizes(ops, rng, size, "int8")


def check_sizes(ops: Ops, rng: np.random.Generator, size: float, dtype: KVCacheDtype) -> None:
    """Values far outside the range of 16 bits come back finite and of their size."""
    inputs = attention_inputs(AttentionCase("sizes", SPEC, ((40, 1),)), rng)
    layer = ops.allocate_kv([SPEC], inputs.num_blocks, inputs.block_size, dtype).layers[0]
    inputs.past_qkv[:, 6 * 64 :] *= np.float32(size)
    inputs.qkv[:, 6 * 64 :] *= np.float32(size)
    ops.store_kv(inputs.past_qkv, layer, inputs.past_slots, SPEC)
    ops.store_kv(inputs.qkv, layer, inputs.step.slot_mapping, SPEC)
    rows = attend_last(ops, inputs, layer)
    assert np.isfinite(rows).all()
    assert np.abs(rows).max() < 5 * size
