"""Equality of bits over instruction sets and thread counts, op by op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from headrace.ops.protocol import Ops, RopeParams
from headrace.quant.quant_tensor import QuantTensor
from kernels.cases import (
    SAMPLE_SETTINGS,
    AttentionCase,
    attention_inputs,
    logit_rows,
    rows,
    sample_inputs,
    spec,
)
from kernels.conftest import make_cpu_ops
from kernels.errors import values_of
from kernels.matmul_cases import random_blocks

Call = Callable[[Ops, np.random.Generator], np.ndarray]

ATTENTION = AttentionCase(
    "mixed", spec(14, 2, 64, window=800), ((1100, 1), (0, 200), (513, 4), (37, 40))
)


def call_embed(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    table = QuantTensor.from_array(rows(rng, 50, 896))
    return ops.embed(rng.integers(0, 50, 200).astype(np.int32), ops.pack_table(table), 3.7)


def call_rms_norm(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    return values_of(ops.rms_norm(rows(rng, 200, 1000), rows(rng, 1, 1000)[0], 1e-6))


def call_rope(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    attention = spec(14, 2, 80)
    qkv, norm = rows(rng, 200, attention.qkv_width), rows(rng, 1, 80)[0]
    table = ops.rope_table(RopeParams(1e6, 80, 500))
    positions = rng.integers(0, 500, 200).astype(np.int32)
    ops.rope(qkv, positions, table, attention, norm, norm, 1e-6)
    return qkv


def call_gated_linear(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    parts = [random_blocks(rng, name, (752, 256)) for name in ("q4_k", "q6_k")]
    weight, x = ops.pack_linear(parts, interleave=True), rows(rng, 100, 256, "outliers")
    both = [values_of(ops.gated_linear(x, weight, name)) for name in ("silu", "gelu_tanh")]
    return np.concatenate(both)


def call_layer_norm(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    h, add, weight, bias = (rows(rng, n, 1000) for n in (200, 200, 1, 1))
    return ops.layer_norm(h, weight[0], bias[0], 1e-12, add=add)


def call_gelu(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    return ops.gelu(rows(rng, 200, 1000, "outliers"))


def call_packed_attention(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    attention, lengths = spec(6, 6, 40), (1, 300, 17, 64)
    query_start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    qkv = rows(rng, sum(lengths), attention.qkv_width)
    return values_of(ops.attention_packed(qkv, query_start, attention))


def call_attention(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    inputs = attention_inputs(ATTENTION, rng)
    cache = ops.allocate_kv([ATTENTION.spec], inputs.num_blocks, inputs.block_size)
    layer = cache.layers[0]
    ops.store_kv(inputs.past_qkv, layer, inputs.past_slots, ATTENTION.spec)
    ops.store_kv(inputs.qkv, layer, inputs.step.slot_mapping, ATTENTION.spec)
    return values_of(ops.attention(inputs.qkv, layer, inputs.step, ATTENTION.spec))


def call_attention_of_one(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    """One KV head, one request, many keys: the splits themselves go to the workers."""
    results = []
    for window, new in ((None, 1), (None, 5), (1000, 3)):
        case = AttentionCase("one", spec(4, 1, 64, window=window), ((3000, new),))
        inputs = attention_inputs(case, rng)
        layer = ops.allocate_kv([case.spec], inputs.num_blocks, inputs.block_size).layers[0]
        ops.store_kv(inputs.past_qkv, layer, inputs.past_slots, case.spec)
        ops.store_kv(inputs.qkv, layer, inputs.step.slot_mapping, case.spec)
        results.append(values_of(ops.attention(inputs.qkv, layer, inputs.step, case.spec)).copy())
    return np.concatenate(results)


def call_attention_int8(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    """Integers, scales and what attention makes of them, keys in bf16 too."""
    results = []
    for is_uneven in (False, True):
        case = replace(ATTENTION, spec=replace(ATTENTION.spec, has_uneven_keys=is_uneven))
        inputs = attention_inputs(case, rng, 3.3)
        cache = ops.allocate_kv([case.spec], inputs.num_blocks, inputs.block_size, "int8")
        layer = cache.layers[0]
        ops.store_kv(inputs.past_qkv, layer, inputs.past_slots, case.spec)
        ops.store_kv(inputs.qkv, layer, inputs.step.slot_mapping, case.spec)
        results.append(values_of(ops.attention(inputs.qkv, layer, inputs.step, case.spec)).copy())
    return np.concatenate(results)


def call_sample(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    settings = list(SAMPLE_SETTINGS)
    logits = logit_rows(rng, len(settings), 20000, "normal")
    positions = np.arange(len(settings))
    return ops.sample(logits, sample_inputs(settings, positions * 3, positions))


def call_logprobs(ops: Ops, rng: np.random.Generator) -> np.ndarray:
    result = ops.logprobs(logit_rows(rng, 9, 20000, "peaked"), np.arange(9, dtype=np.int32), 5)
    return np.concatenate([result.logprobs, result.top_logprobs.reshape(-1)])


CALLS = (
    call_embed,
    call_rms_norm,
    call_rope,
    call_gated_linear,
    call_layer_norm,
    call_gelu,
    call_packed_attention,
    call_attention,
    call_attention_of_one,
    call_attention_int8,
    call_sample,
    call_logprobs,
)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("isa", ["generic", "avx512", "avx512bf16", "amx"])
def test_threads(call: Call, isa: str) -> None:
    one = call(make_cpu_ops(isa, 1), np.random.default_rng(5))
    for num_threads in (2, 3, 8):
        many = call(make_cpu_ops(isa, num_threads), np.random.default_rng(5))
        assert many.tobytes() == one.tobytes()


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512bf16", "amx"])
def test_instruction_sets(call: Call, isa: str) -> None:
    if call.__name__.startswith("call_attention") and isa in ("avx512bf16", "amx"):
        pytest.skip(f"{isa} rounds queries and weights to bf16: equal within the tier only")
    defined = call(make_cpu_ops("generic", 1), np.random.default_rng(6))
    assert call(make_cpu_ops(isa, 2), np.random.default_rng(6)).tobytes() == defined.tobytes()
