"""Shapes of models, random weights for them, and steps of any batch: what the benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.models.weight_spec import DecoderLayer, DecoderWeights
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.cuda.packing import Float8Matrix, FloatMatrix, Linear, float8_matrix
from headrace.ops.protocol import AttentionSpec, KVCache, KVCacheDtype, RopeParams
from headrace.ops.step_inputs import SampleInputs, StepInputs


@dataclass(frozen=True)
class Shape:
    """A Llama's numbers, and what is timed: (batch, context) pairs, prompt lengths, row counts."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    spec: AttentionSpec
    decodes: tuple[tuple[int, int], ...]
    prefills: tuple[int, ...]
    row_counts: tuple[int, ...]


DECODES = ((1, 1024), (8, 1024), (64, 1024), (256, 1024), (256, 512))
SHAPES = {
    "llama-3.1-8b": Shape(
        32, 4096, 14336, 128256, AttentionSpec(32, 8, 128, 128**-0.5), DECODES, (512, 8192),
        (1, 4, 8, 64),
    ),
    "llama-3.2-1b": Shape(
        16, 2048, 8192, 128256, AttentionSpec(32, 8, 64, 0.125), DECODES, (512, 8192), (1, 4, 8, 64)
    ),
    "dry-run": Shape(
        1, 256, 96, 128, AttentionSpec(4, 2, 16, 0.25), ((1, 5), (2, 3)), (4,), (1, 9)
    ),
}  # fmt: skip


def make_model(
    ops: CudaOps, shape: Shape, is_float8: bool = False, kv_dtype: KVCacheDtype = "bf16"
) -> tuple[Llama, KVCache, int]:
    """A model with random weights made on the device, room for what is timed, bytes of a step.

    `is_float8`: the matrices of the layers; table and head stay as they are.
    """
    width, inner, spec = shape.hidden_size, shape.intermediate_size, shape.spec
    matrices: list[FloatMatrix | Float8Matrix] = []

    def floats(rows: int, columns: int) -> FloatMatrix:
        data = torch.empty((rows, columns), dtype=ops.dtype, device=ops.device)
        return FloatMatrix(data.normal_(0, 0.02))

    def linear(rows: int, columns: int) -> Linear:
        matrix: FloatMatrix | Float8Matrix = floats(rows, columns)
        if is_float8:
            codes = (matrix.data * 4000).clamp_(-448, 448).to(torch.float8_e4m3fn)
            scales = torch.full((rows,), 1 / 4000, dtype=torch.float32, device=ops.device)
            matrix = float8_matrix(codes.view(torch.uint8), scales, ops.has_float8_products)
        matrices.append(matrix)
        return Linear((matrix,), None)

    def ones() -> torch.Tensor:
        return torch.ones(width, dtype=torch.float32, device=ops.device)

    longest = max([context for _, context in shape.decodes] + list(shape.prefills)) + 64
    config = ModelConfig(
        "llama", shape.num_layers, width, inner, shape.vocab_size, longest, 1e-5,
        (spec,) * shape.num_layers, (RopeParams(5e5, spec.head_size, longest),) * shape.num_layers,
    )  # fmt: skip
    layers = tuple(
        DecoderLayer(
            attn_norm=ones(),
            qkv=linear(spec.qkv_width, width),
            o=linear(width, spec.num_heads * spec.head_size),
            mlp_norm=ones(),
            gate_up=linear(2 * inner, width),
            down=linear(width, inner),
        )
        for _ in range(shape.num_layers)
    )
    num_bytes = sum(matrix.num_bytes for matrix in matrices)
    table = floats(shape.vocab_size, width)
    rope = ops.rope_table(config.ropes[0])
    weights = DecoderWeights(
        table, layers, (rope,) * shape.num_layers, ones(), Linear((table,), None)
    )
    tokens = max([batch * (context + 64) for batch, context in shape.decodes] + [longest])
    cache = ops.allocate_kv(config.attention, tokens // 64 + 2, 64, kv_dtype)
    return Llama(ops, config, weights), cache, num_bytes


def decode_step(lengths: Sequence[int], block_size: int) -> StepInputs:
    """The last token of requests of these lengths."""
    return _step(lengths, [1] * len(lengths), block_size)


def prefill_step(lengths: Sequence[int], block_size: int) -> StepInputs:
    """All tokens of requests of these lengths; the last of each wants logits."""
    return _step(lengths, lengths, block_size)


def later_step(
    lengths: Sequence[int], new: Sequence[int], block_size: int, most: int
) -> StepInputs:
    """The last `new` tokens of requests that keep their blocks until they have `most` tokens."""
    return _step(lengths, new, block_size, -(-most // block_size))


def _step(
    lengths: Sequence[int], new: Sequence[int], block_size: int, blocks_each: int | None = None
) -> StepInputs:
    starts = np.concatenate([[0], np.cumsum(new)]).astype(np.int32)
    widths = [blocks_each or -(-length // block_size) for length in lengths]
    table = np.full((len(lengths), max(widths)), -1, np.int32)
    slots, positions, taken = [], [], 0
    for row, (length, count, width) in enumerate(zip(lengths, new, widths, strict=True)):
        table[row, :width] = np.arange(taken, taken + width)
        where = np.arange(length - count, length)
        positions.append(where)
        slots.append(table[row, where // block_size] * block_size + where % block_size)
        taken += width
    return StepInputs(
        token_ids=np.arange(starts[-1], dtype=np.int32) % 100,
        positions=np.concatenate(positions).astype(np.int32),
        slot_mapping=np.concatenate(slots).astype(np.int32),
        query_start=starts,
        seq_lens=np.asarray(lengths, np.int32),
        block_table=table,
        logit_rows=starts[1:] - 1,
    )


def drawn(num_rows: int, top_p: float = 1.0) -> SampleInputs:
    """Rows that draw at temperature 1."""
    ones, zeros = np.ones(num_rows, np.float32), np.zeros(num_rows, np.float32)
    return SampleInputs(
        temperature=ones, top_k=np.zeros(num_rows, np.int32), top_p=top_p * ones, min_p=zeros,
        typical_p=ones, seeds=np.arange(num_rows, dtype=np.uint64),
        positions=np.zeros(num_rows, np.int64), repetition_penalty=ones, presence_penalty=zeros,
        frequency_penalty=zeros,
    )  # fmt: skip
