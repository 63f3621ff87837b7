"""Steps up to their tokens: each reads what the one before chose, in a graph and call by call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from fakes.fake_graph import FakeGraph
from headrace.ops.cuda import step_choice
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.cuda.step_replay import MakeGraph
from headrace.ops.protocol import ChoosingStep, PendingTokens
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.ops.step_inputs import Int32, SampleInputs, StepInputs
from kernels.cases import SAMPLE_SETTINGS, logit_rows, sample_inputs

VOCAB_SIZE = 60
TABLE = logit_rows(np.random.default_rng(4), VOCAB_SIZE, VOCAB_SIZE, "normal")
"""The model: the logits of a row are those of its token."""


def choosing(make_graph: MakeGraph | None) -> ChoosingStep:
    ops = CudaOps("cpu", torch.float32, make_graph)
    table = torch.from_numpy(TABLE)

    def forward(ops: Any, step: Any) -> Iterator[torch.Tensor]:
        rows = table.index_select(0, step.token_ids).index_select(0, step.logit_rows)
        for start in range(0, len(rows), 2):
            yield rows[start : start + 2]

    found = ops.record_choices(forward)
    assert found is not None
    return found


def decode(token_ids: list[int]) -> StepInputs:
    count = len(token_ids)
    ids, zeros = np.array(token_ids, np.int32), np.zeros(count, np.int32)
    rows = np.arange(count + 1, dtype=np.int32)
    return StepInputs(ids, zeros, zeros, rows, zeros + 1, zeros[:, None], rows[:-1])


def drawing(count: int, first: int) -> SampleInputs:
    """Rows of all kinds, other ones and other places in each step."""
    settings = [SAMPLE_SETTINGS[(first + row) % len(SAMPLE_SETTINGS)] for row in range(count)]
    places = np.arange(count, dtype=np.int64) + first
    return sample_inputs(settings, np.arange(count, dtype=np.uint64) + 2**63, places)


def expected(token_ids: Any, inputs: SampleInputs) -> Int32:
    return ReferenceOps(np.float32).sample(TABLE[token_ids].copy(), inputs)


@pytest.mark.parametrize("make_graph", [None, FakeGraph], ids=["eager", "graph"])
def test_steps_in_flight_read_what_those_before_them_chose(make_graph: MakeGraph | None) -> None:
    """Nothing is read back before all are started; the last one's bucket is captured in between."""
    run = choosing(make_graph)
    first = [3, 50, 7, 7, 11]
    sources = [np.array(part, np.int32) for part in
               ([-1] * 5, [4, 0, -1, 2, 1], [1, 0, 3, 2, -1, 4, -1, 0, 1])]  # fmt: skip
    own = [first, [0, 0, 9, 0, 0], [0, 0, 0, 0, 21, 0, 22, 0, 0]]
    inputs = [drawing(len(ids), 5 * step) for step, ids in enumerate(own)]
    pending: list[PendingTokens] = [
        run(decode(ids), taken, drawn)
        for ids, taken, drawn in zip(own, sources, inputs, strict=True)
    ]
    before = np.zeros(0, np.int32)
    for ids, taken, drawn, tokens in zip(own, sources, inputs, pending, strict=True):
        known = [before[row] if row >= 0 else ids[place] for place, row in enumerate(taken)]
        before = expected(known, drawn)
        np.testing.assert_array_equal(tokens(), before)


def test_a_replay_takes_other_parameters_than_the_capture() -> None:
    graphs: list[FakeGraph] = []

    def make_graph() -> FakeGraph:
        graphs.append(FakeGraph())
        return graphs[-1]

    run = choosing(make_graph)
    none = np.full(3, -1, np.int32)
    for first in range(0, 9, 3):
        inputs = drawing(3, first)
        np.testing.assert_array_equal(
            run(decode([first, 1, 2]), none, inputs)(), expected([first, 1, 2], inputs)
        )
    assert [graph.num_replays for graph in graphs] == [3]


def test_chunks_choose_for_the_rows_that_want_it() -> None:
    """Two requests of three and two tokens, the second not at its end; then a step of decodes."""
    run = choosing(FakeGraph)
    ids, zeros = np.array([4, 5, 6, 7, 8], np.int32), np.zeros(5, np.int32)
    starts = np.array([0, 3, 5], np.int32)
    rows = np.array([2], np.int32)
    chunk = StepInputs(ids, zeros, zeros, starts, starts[1:], zeros[:2, None], rows)
    one = run(chunk, np.full(5, -1, np.int32), drawing(1, 0))
    two = run(decode([0]), np.zeros(1, np.int32), drawing(1, 1))
    np.testing.assert_array_equal(one(), expected([6], drawing(1, 0)))
    np.testing.assert_array_equal(two(), expected(one(), drawing(1, 1)))


def test_a_row_without_a_choice_is_marked_and_read_as_any_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damaged = TABLE.copy()
    damaged[9] = np.nan
    monkeypatch.setitem(globals(), "TABLE", damaged)
    run = choosing(FakeGraph)
    greedy = drawing(2, 5)
    one = run(decode([9, 8]), np.full(2, -1, np.int32), greedy)
    two = run(decode([0, 0]), np.arange(2, dtype=np.int32), greedy)
    assert one()[0] == -1
    np.testing.assert_array_equal(two(), expected([0, one()[1]], greedy))


def test_more_rows_than_there_was_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs that write where the tokens were are made anew."""
    monkeypatch.setattr(step_choice, "BUCKETS", (1, 2))
    run = choosing(FakeGraph)
    none = np.full(5, -1, np.int32)
    for count in (2, 5, 2):
        ids = list(range(count))
        one = run(decode(ids), none[:count], drawing(count, 1))
        two = run(decode(ids), np.arange(count, dtype=np.int32)[::-1].copy(), drawing(count, 2))
        np.testing.assert_array_equal(one(), expected(ids, drawing(count, 1)))
        np.testing.assert_array_equal(two(), expected(one()[::-1], drawing(count, 2)))
