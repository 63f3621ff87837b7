"""store_kv: what it writes, what it leaves alone, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.ops.protocol import Ops
from kernels.cases import AttentionCase, attention_inputs, spec
from kernels.errors import values_of

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


def test_bytes_are_those_of_the_plan(ops: Ops) -> None:
    specs = [SPEC, spec(4, 1, 256), SPEC]
    cache = ops.allocate_kv(specs, 5, 32)
    assert cache.num_bytes == 5 * ops.kv_bytes_per_block(specs, 32)
    assert (cache.num_blocks, cache.block_size, len(cache.layers)) == (5, 32, 3)
