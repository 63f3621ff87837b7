"""From scheduled requests to the flat arrays of a step.

In: SchedulerOutput. Out: StepInputs, and which logit row belongs to whom. Keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrace.core.step import ScheduledRequest
from headrace.ops.step_inputs import Int32, StepInputs


def flatten(scheduled: Sequence[ScheduledRequest], block_size: int) -> StepInputs:
    """Lay the step's tokens end to end. Shapes: see StepInputs.

    Lists first: behind the weights of a step each call of numpy's is cold, and two dozen of them
    took longer than all of this.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    query_start = [0]
    seq_lens: list[int] = []
    wanted: list[int] = []
    for request in scheduled:
        begin = request.num_computed_tokens
        end = begin + len(request.token_ids)
        token_ids += request.token_ids
        positions += range(begin, end)
        for index in range(begin // block_size, -(-end // block_size)):
            first, last = max(begin, index * block_size), min(end, (index + 1) * block_size)
            shift = (request.block_ids[index] - index) * block_size
            slots += range(first + shift, last + shift)
        query_start.append(len(token_ids))
        seq_lens.append(end)
        wanted += range(len(token_ids) - request.num_logit_rows, len(token_ids))
    return StepInputs(
        token_ids=np.array(token_ids, dtype=np.int32),
        positions=np.array(positions, dtype=np.int32),
        slot_mapping=np.array(slots, dtype=np.int32),
        query_start=np.array(query_start, dtype=np.int32),
        seq_lens=np.array(seq_lens, dtype=np.int32),
        block_table=block_table(scheduled),
        logit_rows=np.array(wanted, dtype=np.int32),
    )


def block_table(scheduled: Sequence[ScheduledRequest]) -> Int32:
    """Block tables as one matrix. Shapes: [R, P], -1 beyond a request's own."""
    width = max(len(request.block_ids) for request in scheduled)
    rows = [[*r.block_ids, *[-1] * (width - len(r.block_ids))] for r in scheduled]
    return np.array(rows, dtype=np.int32)
