"""A small model beside the CPU's, and a model of true widths replayed beside eager.

In: ops. Out: deviations with their bounds, as in op_checks. The small model runs a chunk, a step of
chunks and decode, then decode steps on the tokens that the reference chooses: logits are compared,
and tokens where the two best are further apart than the logits' error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from op_checks import BF16_ERROR, relative, weight
from shapes import Shape, decode_step, drawn, later_step, make_model

from headrace.core.errors import ConfigError
from headrace.models.llama import Hidden, Llama
from headrace.models.model_config import ModelConfig
from headrace.models.weight_spec import DecoderLayer, DecoderWeights
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.cuda.device_step import upload
from headrace.ops.cuda.step_replay import bucket_size, pad, table_width
from headrace.ops.protocol import AttentionSpec, Ops, PendingTokens, RopeParams
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.ops.step_inputs import StepInputs
from headrace.ops.table import make_ops
from headrace.quant.quant_tensor import QuantTensor

LOGIT_ERROR = 0.15
"""Largest error over the deviation of the logits: four layers in bf16 give some hundredths."""
SPEC = AttentionSpec(8, 2, 64, 0.125)
MOST_TOKENS = 128
BLOCK_SIZE = 64

Run = Callable[[StepInputs], np.ndarray]


def checks(
    ops: CudaOps, rng: np.random.Generator, shape: Shape, is_dry_run: bool
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Names and calls; each call gives `deviation` and `bound`."""
    for name in ("bf16",) if is_dry_run else ("bf16", "q4_k", "q8_0"):
        for other in ("reference", "cpu"):
            call = partial(beside_cpu, ops, rng, name, other, is_dry_run)
            yield f"small model {name} beside {other}", call
    for batch in (1,) if is_dry_run else (1, 3, 8, 9, 40, 200):
        yield f"replay of batch {batch} beside eager", partial(beside_eager, ops, shape, batch)
    for batch in (2,) if is_dry_run else (1, 40, 200):
        call = partial(ahead_beside_waiting, ops, shape, batch)
        yield f"steps ahead of batch {batch} beside waiting", call


def beside_cpu(
    ops: CudaOps, rng: np.random.Generator, name: str, other: str, is_dry_run: bool
) -> dict[str, Any]:
    """Logits of every step on this device and on another."""
    config, weights = small_config(1 if is_dry_run else 4, 256 if is_dry_run else 512), {}
    expected: Ops
    try:
        expected = ReferenceOps(np.float32) if other == "reference" else make_ops("cpu", None, 8)
    except ConfigError as error:
        return {"note": error.message}
    runs = [small_model(each, config, rng, name, weights) for each in (expected, ops)]
    prompts = rng.integers(0, config.vocab_size, (2, MOST_TOKENS)).astype(np.int32)
    lengths, worst, same, close = [0, 0], 0.0, 0, 0
    later = [(1, 1)] * (2 if is_dry_run else 12)
    for new in ((5, 0), (1, 3), *later) if is_dry_run else ((40, 0), (30, 20), *later):
        lengths = [length + count for length, count in zip(lengths, new, strict=True)]
        step = small_step(prompts, lengths, new)
        wanted, found = (run(step) for run in runs)
        error, spread = np.abs(found - wanted).max(), wanted.std()
        worst = max(worst, float(error / spread)) if np.isfinite(found).all() else float("inf")
        best = np.sort(wanted, axis=1)
        is_clear = best[:, -1] - best[:, -2] > 2 * error
        is_same = found.argmax(axis=1) == wanted.argmax(axis=1)
        same, close = same + int(is_same.sum()), close + int((~is_same & ~is_clear).sum())
        if (is_clear & ~is_same).any():
            worst = float("inf")
        # Both go on with what the other device chose.
        rows = [row for row, count in enumerate(new) if count]
        for row, token in zip(rows, wanted.argmax(axis=1), strict=True):
            if lengths[row] >= 5 and new == (1, 1):
                prompts[row, lengths[row]] = token
    note = f"{same} tokens are the same, {close} are others of nearly the same logit"
    return {"deviation": worst, "bound": LOGIT_ERROR, "note": note}


def small_step(prompts: np.ndarray, lengths: Sequence[int], new: Sequence[int]) -> StepInputs:
    """The next tokens of both requests, or of the one that has any."""
    used = [row for row, count in enumerate(new) if count]
    if len(used) < len(lengths):  # it is the first: its blocks are the first too
        lengths, new = [lengths[0]], [new[0]]
    step = later_step(lengths, new, BLOCK_SIZE, MOST_TOKENS)
    parts = [prompts[row, length - count : length]
             for row, (length, count) in enumerate(zip(lengths, new, strict=True))]  # fmt: skip
    return replace(step, token_ids=np.concatenate(parts).astype(np.int32))


def small_config(num_layers: int, width: int) -> ModelConfig:
    rope = RopeParams(1e4, SPEC.head_size, MOST_TOKENS)
    return ModelConfig("llama", num_layers, width, 2 * width, 1000, MOST_TOKENS, 1e-5,
                       (SPEC,) * num_layers, (rope,) * num_layers)  # fmt: skip


def small_model(
    ops: Ops,
    config: ModelConfig,
    rng: np.random.Generator,
    name: str,
    tensors: dict[str, QuantTensor],
) -> Run:
    """Logits of steps, recorded as the engine does. `tensors` are drawn once. Mutates: tensors."""
    width, inner = config.hidden_size, config.intermediate_size
    heads = SPEC.num_heads * SPEC.head_size

    def tensor(key: str, rows: int, columns: int) -> QuantTensor:
        if key not in tensors:
            tensors[key] = weight(rng, name, rows, columns)
        return tensors[key]

    def ones() -> Any:
        return ops.pack_vector(QuantTensor.from_array(np.ones(width, np.float32)))

    layers = tuple(
        DecoderLayer(
            attn_norm=ones(),
            qkv=ops.pack_linear([tensor(f"{i} qkv", SPEC.qkv_width, width)]),
            o=ops.pack_linear([tensor(f"{i} o", width, heads)]),
            mlp_norm=ones(),
            gate_up=ops.pack_linear(
                [tensor(f"{i} {part}", inner, width) for part in ("gate", "up")], interleave=True
            ),
            down=ops.pack_linear([tensor(f"{i} down", width, inner)]),
        )
        for i in range(config.num_layers)
    )
    table = tensor("table", config.vocab_size, width)
    ropes = (ops.rope_table(config.ropes[0]),) * config.num_layers
    weights = DecoderWeights(ops.pack_table(table), layers, ropes, ones(), ops.pack_linear([table]))
    ops.finish_packing()
    model = Llama(ops, config, weights)
    cache = ops.allocate_kv(config.attention, 2 * -(-MOST_TOKENS // BLOCK_SIZE), BLOCK_SIZE)

    def forward(given: Any, step: Any) -> Any:
        hidden = model.over(given).forward(step, cache)
        return hidden.h, hidden.add

    replay = ops.record(forward)

    def run(step: StepInputs) -> np.ndarray:
        hidden = model.forward(step, cache) if replay is None else Hidden(*replay(step))
        rows = np.arange(len(step.logit_rows), dtype=np.int32)
        return ops.to_host(model.logits(hidden, rows)).astype(np.float64)

    return run


def ahead_beside_waiting(ops: CudaOps, shape: Shape, batch: int) -> dict[str, Any]:
    """Decode steps that read their tokens on the device, all started before one is waited for,
    beside the same steps that are given theirs: how many tokens differ."""
    model, cache, _ = make_model(ops, replace(shape, num_layers=min(shape.num_layers, 2)))
    for layer in cache.layers:
        for half in (layer.k, layer.v):
            half.data.normal_()

    def logits(given: Any, step: Any) -> Iterator[torch.Tensor]:
        own = model.over(given)
        hidden = own.forward(step, cache)
        yield own.logits(hidden, np.arange(len(hidden.h), dtype=np.int32))

    choose = ops.record_choices(logits)
    assert choose is not None
    rows, none = np.arange(batch, dtype=np.int32), np.full(batch, -1, np.int32)

    def run(is_ahead: bool) -> np.ndarray:
        pending: list[PendingTokens] = []
        for index in range(2 if shape.num_layers == 1 else 8):
            lengths = [3 + index + row % 7 for row in range(batch)]
            step = later_step(lengths, [1] * batch, cache.block_size, 64)
            if pending and not is_ahead:
                step = replace(step, token_ids=pending[-1]())
            sources = rows if pending and is_ahead else none
            pending.append(choose(step, sources, drawn(batch)))
        return np.concatenate([tokens() for tokens in pending])

    different = int((run(is_ahead=False) != run(is_ahead=True)).sum())
    return {"deviation": float(different), "bound": 0.5, "note": f"{different} tokens"}


def beside_eager(ops: CudaOps, shape: Shape, batch: int) -> dict[str, Any]:
    """A captured step on other inputs than it was captured on, beside its calls one by one."""
    model, cache, _ = make_model(ops, replace(shape, num_layers=min(shape.num_layers, 2)))
    for layer in cache.layers:
        for half in (layer.k, layer.v):
            half.data.normal_()

    def forward(given: Any, step: Any) -> Sequence[torch.Tensor]:
        hidden = model.over(given).forward(step, cache)
        return hidden.h, hidden.add

    replay = ops.record(forward)
    assert replay is not None
    worst, is_equal = 0.0, True
    for first in (3, 300) if shape.num_layers > 1 else (3, 4):
        step = decode_step([first + row % 7 for row in range(batch)], cache.block_size)
        found = [ops.to_host(part) for part in replay(step)]
        padded = pad(step, bucket_size(batch), table_width(step.block_table.shape[1]))
        eager = forward(ops, upload(padded, ops.device))
        for mine, theirs in zip(found, eager, strict=True):
            wanted = ops.to_host(theirs)[:batch]
            worst = max(worst, relative(mine, wanted))
            is_equal = is_equal and bool((mine == wanted).all())
    return {"deviation": worst, "bound": BF16_ERROR,
            "note": "the same bits" if is_equal else "other bits"}  # fmt: skip
