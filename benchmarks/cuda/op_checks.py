"""Each op on fresh random inputs against the reference in float64, and choices token by token.

In: ops and a generator. Out: deviations, each with the bound it must stay under. What ops allocate
is full of NaN before they write, where the device's library can do that; so is the unused cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.cuda.gemv import MAX_ROWS
from headrace.ops.protocol import AttentionSpec, KVCacheDtype, RopeParams
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.quant.quant_tensor import QuantTensor
from headrace.quant.quantize import quantize
from kernels.cases import (
    ATTENTION_CASES,
    SAMPLE_SETTINGS,
    AttentionCase,
    attention_inputs,
    bf16_exact,
    logit_rows,
    sample_inputs,
    spec,
    token_lists,
)

BF16_ERROR = 2e-2
"""Largest error over the largest value: inputs and results of 8 bits, sums of thousands."""
FLOAT_ERROR = 1e-5
"""The same for log-probabilities, which are float32 from the logits on."""

Check = Callable[[], dict[str, Any]]
LONG_CASES = (
    AttentionCase("8b-decode", spec(32, 8, 128), ((5000, 1), (1023, 1), (300, 1))),
    AttentionCase("8b-chunk", spec(32, 8, 128), ((700, 333), (0, 64))),
)


def checks(
    part: str, ops: CudaOps, rng: np.random.Generator, is_dry_run: bool
) -> Iterator[tuple[str, Check]]:
    """Names and calls of one of PARTS; each call gives `deviation` and `bound`."""
    yield from PARTS[part](ops, ReferenceOps(np.float64), rng, is_dry_run)


def linears(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, is_dry_run: bool
) -> Iterator[tuple[str, Check]]:
    """Products of few rows and many, and logits, in every layout of weights."""
    for name in formats(is_dry_run):
        for rows in (1, 9) if is_dry_run else (1, 2, 5, 8, 9, 64, 65):
            call = partial(linear, ops, exact, rng, name, rows, 96 if is_dry_run else 4096)
            yield f"linear {name} rows {rows}", call
        yield f"logits {name}", partial(logits, ops, exact, rng, name)


def around_attention(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, is_dry_run: bool
) -> Iterator[tuple[str, Check]]:
    """Norms, rotation, embeddings and the gated products."""
    for width in (896, 96 if is_dry_run else 4096):
        yield f"rms_norm {width}", partial(rms_norm, ops, exact, rng, width)
    for each in (spec(8, 2, 128), spec(14, 2, 64), spec(4, 1, 256), spec(8, 8, 96)):
        for has_norm in (False, True):
            name = f"rope d{each.head_size}{' normed' if has_norm else ''}"
            yield name, partial(rope, ops, exact, rng, each, each.head_size, has_norm)
    yield "rope d96 partly", partial(rope, ops, exact, rng, spec(8, 8, 96), 72, False)
    for name in formats(is_dry_run):
        yield f"embed {name}", partial(embed, ops, exact, rng, name)
        for rows in (1, 9) if is_dry_run else (1, 5, 9):
            call = partial(gated_linear, ops, exact, rng, name, rows)
            yield f"gated_linear {name} rows {rows}", call


def attentions(
    dtype: KVCacheDtype,
    ops: CudaOps,
    exact: ReferenceOps,
    rng: np.random.Generator,
    is_dry_run: bool,
) -> Iterator[tuple[str, Check]]:
    """The writing of keys and values, decode rows and chunks."""
    for case in ATTENTION_CASES[:1] if is_dry_run else (*LONG_CASES, *ATTENTION_CASES):
        yield f"attention {case} {dtype}", partial(attention, ops, exact, rng, case, dtype)


def choices(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, is_dry_run: bool
) -> Iterator[tuple[str, Check]]:
    """What changes logits, chooses tokens and scores them."""
    for width in (130,) if is_dry_run else (700, 32003, 151936):
        for kind in ("normal", "ties", "banned"):
            yield f"sample {width} {kind}", partial(sample, ops, rng, width, kind)
        yield f"adjust_logits {width}", partial(adjust_logits, ops, rng, width)
        yield f"logprobs {width}", partial(logprobs, ops, exact, rng, width)


PARTS: dict[str, Callable[..., Iterator[tuple[str, Check]]]] = {
    "linears": linears,
    "around": around_attention,
    "attention": partial(attentions, "bf16"),
    "attention-int8": partial(attentions, "int8"),
    "attention-fp8": partial(attentions, "fp8"),
    "choices": choices,
}


def formats(is_dry_run: bool) -> tuple[str, ...]:
    if is_dry_run:
        return ("bf16", "q4_k", "f8_e4m3")
    return ("bf16", "q4_k", "q6_k", "q8_0", "q4_0", "q5_k", "iq4_nl", "q2_k", "f8_e4m3")


def poison() -> None:
    """Let torch fill whatever is allocated with NaN from here on."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True


def linear(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, name: str, rows: int, columns: int
) -> dict[str, Any]:
    tensor, x = weight(rng, name, columns, 1024), bf16(rng, rows, 1024)
    bias = QuantTensor.from_array(rng.standard_normal(columns).astype(np.float32))
    given = as_multiplied(ops, name, x)
    wanted = exact.linear(given.astype(np.float64), exact.pack_linear([tensor], [bias]))
    return compare(ops, ops.linear(send(ops, x), ops.pack_linear([tensor], [bias])), wanted)


def gated_linear(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, name: str, rows: int
) -> dict[str, Any]:
    parts, x = [weight(rng, name, 96, 512) for _ in range(2)], bf16(rng, rows, 512)
    packed = exact.pack_linear(parts, interleave=True)
    given = as_multiplied(ops, name, x)
    wanted = exact.gated_linear(given.astype(np.float64), packed, "silu")
    packed = ops.pack_linear(parts, interleave=True)
    return compare(ops, ops.gated_linear(send(ops, x), packed, "silu"), wanted)


def embed(ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, name: str) -> dict[str, Any]:
    table, ids = weight(rng, name, 300, 512), rng.integers(0, 300, 17).astype(np.int32)
    wanted = exact.embed(ids, exact.pack_table(table), 2.5)
    return compare(ops, ops.embed(ids, ops.pack_table(table), 2.5), wanted)


def logits(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, name: str
) -> dict[str, Any]:
    """Of one row and of many, in float32."""
    head, norm = weight(rng, name, 700, 512), rng.standard_normal(512).astype(np.float32)
    vector, worst = ops.pack_vector(QuantTensor.from_array(norm)), 0.0
    for count in (1, 12):
        h, add = bf16(rng, 12, 512), bf16(rng, 12, 512)
        rows = rng.permutation(12)[:count].astype(np.int32) if count < 12 else np.arange(12)
        rows = rows.astype(np.int32)
        given = (each.astype(np.float64) for each in (h, norm))
        wanted = exact.logits(
            *given, 1e-6, exact.pack_linear([head]), rows, add.astype(np.float64), 30.0
        )
        found = ops.logits(
            send(ops, h), vector, 1e-6, ops.pack_linear([head]), rows, send(ops, add), 30.0
        )
        if found.dtype != torch.float32:
            raise TypeError(f"logits are {found.dtype}, not float32")
        worst = max(worst, compare(ops, found, wanted)["deviation"])
    return {"deviation": worst, "bound": BF16_ERROR}


def rms_norm(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, width: int
) -> dict[str, Any]:
    h, add = bf16(rng, 5, width), bf16(rng, 5, width)
    norm = rng.standard_normal(width).astype(np.float32)
    sums = h.astype(np.float64) + add
    wanted = exact.rms_norm(sums.copy(), norm.astype(np.float64), 1e-6)
    sent = send(ops, h)
    vector = ops.pack_vector(QuantTensor.from_array(norm))
    found = compare(ops, ops.rms_norm(sent, vector, 1e-6, send(ops, add)), wanted)
    found["deviation"] = max(found["deviation"], compare(ops, sent, sums)["deviation"])
    return found


def rope(
    ops: CudaOps,
    exact: ReferenceOps,
    rng: np.random.Generator,
    heads: AttentionSpec,
    rotary_size: int,
    has_norm: bool,
) -> dict[str, Any]:
    params = RopeParams(1e4, rotary_size, 4096)
    qkv, positions = bf16(rng, 9, heads.qkv_width), rng.integers(0, 4096, 9).astype(np.int32)
    norms = [rng.standard_normal(heads.head_size).astype(np.float32) for _ in range(2)]
    wanted, found = qkv.astype(np.float64), send(ops, qkv)
    given = [norm.astype(np.float64) for norm in norms] if has_norm else [None, None]
    exact.rope(wanted, positions, exact.rope_table(params), heads, *given, 1e-6)
    vectors = [ops.pack_vector(QuantTensor.from_array(norm)) for norm in norms]
    ops.rope(
        found, positions, ops.rope_table(params), heads, *(vectors if has_norm else given), 1e-6
    )
    return compare(ops, found, wanted)


def attention(
    ops: CudaOps,
    exact: ReferenceOps,
    rng: np.random.Generator,
    case: AttentionCase,
    dtype: KVCacheDtype,
) -> dict[str, Any]:
    """Every slot NaN, then the past, then the step's rows; requests of one row and of more."""
    inputs = attention_inputs(case, rng)
    slots = np.arange(inputs.num_blocks * inputs.block_size, dtype=np.int32)
    nan = np.full((len(slots), case.spec.qkv_width), np.nan, np.float32)
    parts = ((nan, slots), (inputs.past_qkv, inputs.past_slots),
             (inputs.qkv, inputs.step.slot_mapping))  # fmt: skip
    layers = [
        each.allocate_kv([case.spec], inputs.num_blocks, inputs.block_size, dtype).layers[0]
        for each in (ops, exact)
    ]
    for qkv, where in parts:
        ops.store_kv(send(ops, qkv), layers[0], where, case.spec)
        exact.store_kv(qkv.astype(np.float64), layers[1], where, case.spec)
    wanted = exact.attention(inputs.qkv.astype(np.float64), layers[1], inputs.step, case.spec)
    return compare(
        ops, ops.attention(send(ops, inputs.qkv), layers[0], inputs.step, case.spec), wanted
    )


def sample(ops: CudaOps, rng: np.random.Generator, width: int, kind: str) -> dict[str, Any]:
    """Tokens that are not the reference's; none may be."""
    settings = list(SAMPLE_SETTINGS)
    values = logit_rows(rng, len(settings), width, kind)
    seeds = rng.integers(0, 2**64, len(settings), dtype=np.uint64)
    inputs = sample_inputs(settings, seeds, rng.integers(0, 10**6, len(settings)))
    wanted = ReferenceOps(np.float32).sample(values, inputs)
    found = ops.sample(floats(ops, values), inputs)
    names = [row.name for row, same in zip(settings, found == wanted, strict=True) if not same]
    return {"deviation": float(len(names)), "bound": 0.5, "note": ", ".join(names)}


def adjust_logits(ops: CudaOps, rng: np.random.Generator, width: int) -> dict[str, Any]:
    """Values that are not the reference's; none may be."""
    values = logit_rows(rng, 2, width, "normal")
    mask = rng.integers(0, 2**32, (2, -(-width // 32)), dtype=np.uint32)
    lists = [
        token_lists([{int(t): float(n) for t, n in zip(rng.permutation(width)[:9], range(1, 10),
                                                       strict=True)} for _ in range(2)])
        for _ in range(3)
    ]  # fmt: skip
    ones = np.ones(2, np.float32)
    inputs = sample_inputs(
        list(SAMPLE_SETTINGS[:2]), np.zeros(2), np.zeros(2), bias=lists[0],
        prompt_counts=lists[1], output_counts=lists[2], token_mask=mask,
        repetition_penalty=1.3 * ones, presence_penalty=0.5 * ones, frequency_penalty=0.25 * ones,
    )  # fmt: skip
    wanted, sent = values.copy(), floats(ops, values)
    ReferenceOps(np.float32).adjust_logits(wanted, inputs)
    ops.adjust_logits(sent, inputs)
    return {"deviation": float((ops.to_host(sent) != wanted).sum()), "bound": 0.5}


def logprobs(
    ops: CudaOps, exact: ReferenceOps, rng: np.random.Generator, width: int
) -> dict[str, Any]:
    values = logit_rows(rng, 3, width, "normal")
    ids = rng.integers(0, width, 3).astype(np.int32)
    wanted, found = exact.logprobs(values, ids, 5), ops.logprobs(floats(ops, values), ids, 5)
    same = (found.top_ids == wanted.top_ids).all() and (found.ranks == wanted.ranks).all()
    worst = max(
        relative(found.logprobs, wanted.logprobs), relative(found.top_logprobs, wanted.top_logprobs)
    )
    return {"deviation": worst if same else float("inf"), "bound": FLOAT_ERROR}


def weight(rng: np.random.Generator, name: str, rows: int, width: int) -> QuantTensor:
    """Of few distinct rows in random order: quantizing is slow."""
    few = quantize(rng.standard_normal((min(rows, 96), width)).astype(np.float32) / 8, name)
    return few.take_rows(rng.permutation(rows) % few.shape[0])


def as_multiplied(ops: CudaOps, name: str, x: np.ndarray) -> np.ndarray:
    """Rows beyond a GEMV's are rounded to float8 where the device multiplies it."""
    is_rounded = name == "f8_e4m3" and ops.has_float8_products and len(x) > MAX_ROWS
    return quantize(x, name).dequantize() if is_rounded else x


def bf16(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    return bf16_exact(rng.standard_normal((rows, width)))


def send(ops: CudaOps, x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.copy()).to(ops.device, ops.dtype)


def floats(ops: CudaOps, x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.copy()).to(ops.device)


def compare(ops: CudaOps, found: torch.Tensor, wanted: np.ndarray) -> dict[str, Any]:
    host = ops.to_host(found)
    if host.shape != wanted.shape:
        raise ValueError(f"shape {host.shape}, not {wanted.shape}")
    return {"deviation": relative(host, wanted), "bound": BF16_ERROR}


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest error over the largest value."""
    if not wanted.size:
        return 0.0
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - wanted).max()) / max(float(np.abs(wanted).max()), 1e-30)
