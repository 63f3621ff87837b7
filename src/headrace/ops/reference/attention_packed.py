"""Bidirectional attention over whole sequences, in numpy: one softmax per sequence and head."""

from __future__ import annotations

import numpy as np

from headrace.ops.protocol import AttentionSpec
from headrace.ops.reference.norm import Floats
from headrace.ops.step_inputs import Int32


def attention_packed(qkv: Floats, query_start: Int32, spec: AttentionSpec) -> Floats:
    """Attend every row over all rows of its sequence.

    Shapes: qkv [T, 3*H*D]; query_start [R+1] -> [T, H*D].
    Source: arXiv 1706.03762.
    """
    heads = qkv.reshape(len(qkv), 3, spec.num_heads, spec.head_size)
    out = np.zeros((len(qkv), spec.num_heads, spec.head_size), qkv.dtype)
    for begin, end in zip(query_start[:-1].tolist(), query_start[1:].tolist(), strict=True):
        if begin == end:
            continue
        queries, keys, values = heads[begin:end].swapaxes(0, 1)  # [Z, H, D] each
        scores = np.einsum("qhd,zhd->hqz", queries, keys) * qkv.dtype.type(spec.scale)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out[begin:end] = np.einsum("hqz,zhd->qhd", weights, values)
    return out.reshape(len(qkv), spec.num_heads * spec.head_size)
