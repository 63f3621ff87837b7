"""Buckets and padding of decode steps; the graph that stands for CUDA's refuses what it must."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fakes.fake_graph import FakeGraph
from headrace.ops.cuda.device_step import FIELDS, upload
from headrace.ops.cuda.step_replay import BUCKETS, bucket_size, is_decode, pad, table_width
from headrace.ops.step_inputs import StepInputs


def step(lengths: list[int], num_logit_rows: int | None = None) -> StepInputs:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens = np.arange(starts[-1], dtype=np.int32)
    rows = np.arange(starts[-1] if num_logit_rows is None else num_logit_rows, dtype=np.int32)
    table = np.arange(2 * len(lengths), dtype=np.int32).reshape(-1, 2)
    seq_lens = np.full(len(lengths), 40, np.int32)
    return StepInputs(tokens, tokens + 30, tokens + 100, starts, seq_lens, table, rows)


def test_decode_steps_are_recognized() -> None:
    assert is_decode(step([1, 1, 1]))
    assert not is_decode(step([1, 2]))
    assert not is_decode(step([1, 1], num_logit_rows=1))
    assert not is_decode(step([1] * (BUCKETS[-1] + 1)))


@pytest.mark.parametrize(("num_requests", "size"), [(1, 1), (3, 4), (9, 12), (512, 512)])
def test_the_smallest_bucket_is_taken(num_requests: int, size: int) -> None:
    assert bucket_size(num_requests) == size


@pytest.mark.parametrize(("blocks", "width"), [(1, 64), (64, 64), (65, 128), (300, 512)])
def test_table_widths(blocks: int, width: int) -> None:
    assert table_width(blocks) == width


def test_padded_rows_read_and_write_nothing() -> None:
    padded = pad(step([1, 1, 1]), 4, 64)
    assert padded.slot_mapping.tolist() == [100, 101, 102, -1]
    assert padded.seq_lens.tolist() == [40, 40, 40, 0]
    assert padded.query_start.tolist() == [0, 1, 2, 3, 4]
    assert padded.block_table[:3, :2].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (padded.block_table[3] == -1).all()
    assert (padded.block_table[:, 2:] == -1).all()
    assert len(padded.token_ids) == len(padded.positions) == len(padded.logit_rows) == 4


@pytest.mark.parametrize("num_requests", [1, 2, 3, 5])
def test_arrays_of_a_step_are_aligned_for_every_number_of_rows(num_requests: int) -> None:
    """Triton compiles once more for each combination of pointers that are not."""
    sent = upload(step([1] * num_requests), torch.device("cpu"))
    for name in FIELDS:
        part = getattr(sent, name)
        assert (part.data_ptr() - sent.flat.data_ptr()) % 16 == 0
        np.testing.assert_array_equal(part.numpy(), getattr(step([1] * num_requests), name))


def test_the_fake_graph_does_the_work_again_on_new_inputs() -> None:
    x = torch.ones(3)
    graph = FakeGraph()
    (y,) = graph.capture(lambda: [x * 2 + 1])
    x.fill_(5)
    graph.replay()
    assert y.tolist() == [11, 11, 11]


def test_the_fake_graph_shows_values_that_the_host_baked_in() -> None:
    x, scale = torch.ones(3), [2.0]
    graph = FakeGraph()
    (y,) = graph.capture(lambda: [x * scale[0]])
    scale[0] = 3.0
    graph.replay()
    assert y.tolist() == [2, 2, 2]


def test_the_fake_graph_refuses_to_wait_for_the_device() -> None:
    x = torch.ones(3)
    with pytest.raises(AssertionError, match="_local_scalar_dense"):
        FakeGraph().capture(lambda: [x * x.sum().item()])
