"""Paged causal attention, in numpy: one softmax per request and head over its gathered keys."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headrace.ops.protocol import AttentionSpec
from headrace.ops.reference.norm import Floats
from headrace.ops.reference.store_kv import KVLayer
from headrace.ops.step_inputs import Int32, StepInputs


def attention(qkv: Floats, layer: KVLayer, step: StepInputs, spec: AttentionSpec) -> Floats:
    """Attend every row over positions max(0, p - window + 1) .. p of its request.

    Shapes: qkv [T, (H+2K)*D] -> [T, H*D].
    Source: arXiv 1706.03762; paging arXiv 2309.06180; soft cap arXiv 2408.00118.
    """
    num_rows, heads, size = len(qkv), spec.num_heads, spec.head_size
    queries = qkv.reshape(num_rows, spec.qkv_width // size, size)[:, :heads]  # [T, H, D]
    out = np.zeros((num_rows, heads, size), dtype=qkv.dtype)
    for r in range(len(step.seq_lens)):
        rows = slice(int(step.query_start[r]), int(step.query_start[r + 1]))
        if rows.start == rows.stop:
            continue
        keys, values = _gather(layer, step.block_table[r], int(step.seq_lens[r]))
        visible = _visible(step.positions[rows], keys.shape[1], spec.window)
        out[rows] = _attend(queries[rows], keys, values, visible, spec)
    return out.reshape(num_rows, heads * size)


def _gather(layer: KVLayer, block_row: Int32, seq_len: int) -> tuple[Floats, Floats]:
    """Keys and values of one request in order of position. Shapes: -> k, v [K, seq_len, D]."""
    num_blocks, num_kv_heads, block_size, head_size = layer.shape
    blocks = block_row[: -(-seq_len // block_size)]
    if len(blocks) * block_size < seq_len or np.any((blocks < 0) | (blocks >= num_blocks)):
        raise IndexError(f"the block table does not hold a request's {seq_len} tokens.")
    keys, values = (
        part.read(blocks).transpose(1, 0, 2, 3).reshape(num_kv_heads, -1, head_size)[:, :seq_len]
        for part in (layer.k, layer.v)
    )
    return keys, values


def _visible(positions: Int32, seq_len: int, window: int | None) -> NDArray[np.bool_]:
    """Which cache positions each row sees. Shapes: positions [Q] -> [Q, seq_len]."""
    cache = np.arange(seq_len)
    visible: NDArray[np.bool_] = cache <= positions[:, None]
    if window is not None:
        visible &= cache > positions[:, None] - window
    return visible


def _attend(
    queries: Floats, keys: Floats, values: Floats, visible: NDArray[np.bool_], spec: AttentionSpec
) -> Floats:
    """Softmax attention of one request. Shapes: queries [Q, H, D], k, v [K, Z, D] -> [Q, H, D]."""
    group = spec.num_heads // spec.num_kv_heads
    grouped = queries.reshape(len(queries), spec.num_kv_heads, group, spec.head_size)
    scores = np.einsum("qkgd,kzd->kgqz", grouped, keys) * queries.dtype.type(spec.scale)
    if spec.soft_cap is not None:
        cap = queries.dtype.type(spec.soft_cap)
        scores = cap * np.tanh(scores / cap)
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: Floats = np.einsum("kgqz,kzd->qkgd", weights, values)
    return mixed.reshape(queries.shape)
