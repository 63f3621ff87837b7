"""adjust_logits, sample and logprobs of the CPU kernels.

In: float32 logits and the rows' parameters. Out: token ids and log-probabilities; rows from which
nothing can be chosen raise together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from headrace import _cpu
from headrace.core.errors import InvalidLogits
from headrace.ops.protocol import Logprobs
from headrace.ops.step_inputs import Float32, Int32, SampleInputs, TokenLists


def adjust_logits(ops: _cpu.CpuOps, logits: Float32, inputs: SampleInputs) -> None:
    """Mask, bias, then penalties. Mutates: logits. Raises: IndexError."""
    if not inputs.adjusts_logits:
        return
    _cpu.adjust_logits(
        ops,
        logits,
        inputs.token_mask,
        *_fields(inputs.bias),
        *_fields(inputs.prompt_counts),
        *_fields(inputs.output_counts),
        inputs.repetition_penalty,
        inputs.presence_penalty,
        inputs.frequency_penalty,
    )


def _fields(lists: TokenLists | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if lists is None else (lists.start, lists.token_ids, lists.values)


def sample(ops: _cpu.CpuOps, logits: Float32, inputs: SampleInputs) -> Int32:
    """Choose a token per row. Shapes: [S, V] -> [S]. Raises: InvalidLogits."""
    token_ids = np.empty(len(logits), np.int32)
    _cpu.sample(
        ops,
        logits,
        inputs.temperature,
        inputs.top_k,
        inputs.top_p,
        inputs.min_p,
        inputs.typical_p,
        inputs.seeds,
        inputs.positions,
        token_ids,
    )
    _raise_for_rows(token_ids)
    return token_ids


def logprobs(ops: _cpu.CpuOps, logits: Float32, token_ids: Int32, num_top: int) -> Logprobs:
    """Log-softmax of the chosen tokens, ranks, best tokens. Raises: InvalidLogits, IndexError."""
    num_rows, num_tokens = logits.shape
    num_top = min(num_top, num_tokens)
    result = Logprobs(
        logprobs=np.empty(num_rows, np.float32),
        ranks=np.empty(num_rows, np.int32),
        top_ids=np.empty((num_rows, num_top), np.int32),
        top_logprobs=np.empty((num_rows, num_top), np.float32),
    )
    arrays = (result.logprobs, result.ranks, result.top_ids, result.top_logprobs)
    _cpu.logprobs(ops, logits, token_ids, *arrays)
    _raise_for_rows(result.ranks)
    return result


def _raise_for_rows(marked: Int32) -> None:
    if marked.size and marked.min() < 0:
        raise InvalidLogits(np.flatnonzero(marked < 0).tolist())
