"""The flat arrays of a step, checked against arithmetic by hand."""

from __future__ import annotations

import numpy as np

from headrace.core.step import ScheduledRequest
from headrace.executor.input_batch import flatten


def scheduled(
    token_ids: list[int], start: int, block_ids: list[int], num_logit_rows: int
) -> ScheduledRequest:
    return ScheduledRequest("x", token_ids, start, block_ids, num_logit_rows, num_logit_rows > 0)


def test_positions_slots_and_rows_of_three_requests() -> None:
    step = flatten(
        [
            scheduled([11], 5, [7, 2], 1),  # a decode in the second block of 4
            scheduled([21, 22, 23], 3, [9, 0, 5], 2),  # a chunk over a block edge
            scheduled([31, 32], 0, [4], 0),  # a chunk without logits
        ],
        block_size=4,
    )
    assert step.token_ids.tolist() == [11, 21, 22, 23, 31, 32]
    assert step.positions.tolist() == [5, 3, 4, 5, 0, 1]
    assert step.slot_mapping.tolist() == [2 * 4 + 1, 9 * 4 + 3, 0, 1, 16, 17]
    assert step.query_start.tolist() == [0, 1, 4, 6]
    assert step.seq_lens.tolist() == [6, 6, 2]
    assert step.block_table.tolist() == [[7, 2, -1], [9, 0, 5], [4, -1, -1]]
    assert step.logit_rows.tolist() == [0, 2, 3]


def test_all_arrays_are_int32_and_contiguous() -> None:
    step = flatten([scheduled([1, 2], 0, [0], 0)], block_size=16)
    assert step.adapters == ()
    for name in set(step.__slots__) - {"adapters"}:
        array = getattr(step, name)
        assert array.dtype == np.int32, name
        assert array.flags.c_contiguous, name
    assert step.logit_rows.shape == (0,)
