"""From scheduled requests to the flat arrays of a step.

In: SchedulerOutput. Out: StepInputs, and which logit row belongs to whom. Keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace.core.step import ScheduledRequest
from headrace.ops.step_inputs import Int32, StepInputs


def flatten(scheduled: Sequence[ScheduledRequest], block_size: int) -> StepInputs:
    """Lay the step's tokens end to end. Shapes: see StepInputs."""
    lengths = np.fromiter((len(r.token_ids) for r in scheduled), np.int32, len(scheduled))
    starts = np.fromiter((r.num_computed_tokens for r in scheduled), np.int32, len(scheduled))
    query_start = np.zeros(len(scheduled) + 1, dtype=np.int32)
    np.cumsum(lengths, out=query_start[1:])
    num_tokens = int(query_start[-1])
    token_ids = np.fromiter((t for r in scheduled for t in r.token_ids), np.int32, num_tokens)
    request_of_token = np.repeat(np.arange(len(scheduled)), lengths)  # [T]
    offset = np.arange(num_tokens, dtype=np.int32) - query_start[request_of_token]
    positions = (starts[request_of_token] + offset).astype(np.int32)
    block_table = pad_blocks(scheduled)
    block_ids = block_table[request_of_token, positions // block_size]
    return StepInputs(
        token_ids=token_ids,
        positions=positions,
        slot_mapping=(block_ids * block_size + positions % block_size).astype(np.int32),
        query_start=query_start,
        seq_lens=(starts + lengths).astype(np.int32),
        block_table=block_table,
        logit_rows=logit_rows(scheduled, query_start),
    )


def pad_blocks(scheduled: Sequence[ScheduledRequest]) -> Int32:
    """Block tables as one matrix. Shapes: [R, P], -1 beyond a request's own."""
    width = max(len(request.block_ids) for request in scheduled)
    table = np.full((len(scheduled), width), -1, dtype=np.int32)
    for row, request in enumerate(scheduled):
        table[row, : len(request.block_ids)] = request.block_ids
    return table


def logit_rows(scheduled: Sequence[ScheduledRequest], query_start: Int32) -> Int32:
    """Rows of the flat batch whose logits are wanted: the last of each request, in order."""
    rows = [
        np.arange(end - request.num_logit_rows, end, dtype=np.int32)
        for request, end in zip(scheduled, query_start[1:], strict=True)
        if request.num_logit_rows
    ]
    return np.concatenate(rows).astype(np.int32) if rows else np.zeros(0, dtype=np.int32)
