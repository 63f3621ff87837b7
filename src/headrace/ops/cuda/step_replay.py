"""Decode steps captured once per batch bucket and launched as one graph; others run call by call.

In: a forward pass and steps. Out: what the forward pass ends with. A bucket keeps its arrays at
fixed addresses; a step is copied there, padded with rows that no cache slot belongs to, and the
graph is launched. `Graph` is the seam: CUDA graphs on a GPU, a recording of calls in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.core.frozen import frozen
from headrace.ops.cuda.device_step import pack_step, to_device, upload
from headrace.ops.protocol import Forward
from headrace.ops.step_inputs import Int32, StepInputs

BUCKETS = (
    1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512,
)  # fmt: skip
TABLE_STEP = 64
"""Block tables of a bucket are this many blocks wide, or a power of 2 times as many."""

WORKSPACE_BYTES = 32 * 2**20
"""What cuBLAS keeps for each stream that it was called on, for good."""

Run = Callable[[], Sequence[torch.Tensor]]


class Graph(Protocol):
    """What a captured run is launched through."""

    def capture(self, run: Run) -> Sequence[torch.Tensor]:
        """Run once for warming up, then write down what it launches; its results stay in place."""
        ...

    def replay(self) -> None:
        """Launch it again over the same addresses."""
        ...


MakeGraph = Callable[[], Graph]


class CudaGraph:
    """torch.cuda.CUDAGraph, all of an engine's in one memory pool and captured on one stream."""

    def __init__(self, pool: Any, stream: Any) -> None:
        self._pool, self._stream = pool, stream
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, run: Run) -> Sequence[torch.Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            run()  # kernels compile, the library chooses its own
        torch.cuda.current_stream().wait_stream(self._stream)
        # What other threads ask of the driver meanwhile, pinned memory say, does not end a capture.
        with torch.cuda.graph(
            self._graph, self._pool, self._stream, capture_error_mode="thread_local"
        ):
            return run()

    def replay(self) -> None:
        self._graph.replay()


def cuda_graphs() -> MakeGraph:
    """A maker of graphs that share a memory pool and a stream."""
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
    return lambda: CudaGraph(pool, stream)


@frozen
class Bucket:
    """A captured step of so many requests with one row each; its arrays are `inputs`."""

    inputs: torch.Tensor
    graph: Graph
    outputs: Sequence[torch.Tensor]

    def launch(self, inputs: Int32) -> None:
        """Run it over other inputs."""
        self.inputs.copy_(to_device(inputs, self.inputs.device), non_blocking=True)
        self.graph.replay()


class StepReplay:
    """Runs a forward pass for any step. Owns the buckets."""

    def __init__(self, ops: Any, forward: Forward, make_graph: MakeGraph | None) -> None:
        self._ops, self._forward, self._make_graph = ops, forward, make_graph
        self._buckets: dict[tuple[int, int], Bucket] = {}

    def __call__(self, step: StepInputs) -> Sequence[torch.Tensor]:
        if self._make_graph is None or not is_decode(step):
            return self._forward(self._ops, upload(step, self._ops.device))  # type: ignore[arg-type]
        size = bucket_size(len(step.seq_lens))
        padded = pad(step, size, table_width(step.block_table.shape[1]))
        key = (size, padded.block_table.shape[1])
        if key not in self._buckets:
            self._buckets[key] = self._capture(padded)
        bucket = self._buckets[key]
        bucket.launch(pack_step(padded))
        return [output[: len(step.seq_lens)] for output in bucket.outputs]

    def _capture(self, step: StepInputs) -> Bucket:
        sent = upload(idle(step), self._ops.device)
        assert self._make_graph is not None  # noqa: S101 - the caller has one
        graph = self._make_graph()
        outputs = graph.capture(lambda: self._forward(self._ops, sent))  # type: ignore[arg-type]
        return Bucket(sent.flat, graph, outputs)


def idle(step: StepInputs) -> StepInputs:
    """The step with rows that write no slot, so that warming up leaves the cache alone."""
    return replace(step, slot_mapping=np.full_like(step.slot_mapping, -1))


def is_decode(step: StepInputs) -> bool:
    """Whether every request has one row and wants its logits, in a bucket that exists."""
    num_requests = len(step.seq_lens)
    return (
        0 < num_requests <= BUCKETS[-1]
        and len(step.token_ids) == num_requests == len(step.logit_rows)
        and bool((np.diff(step.query_start) == 1).all())
    )


def bucket_size(num_requests: int) -> int:
    """The smallest bucket that holds them."""
    return next(size for size in BUCKETS if size >= num_requests)


def table_width(num_blocks: int) -> int:
    """The width of a bucket's block tables."""
    width = TABLE_STEP
    while width < num_blocks:
        width *= 2
    return width


def pad(step: StepInputs, size: int, width: int) -> StepInputs:
    """The step with rows up to `size` that read nothing and write no slot."""

    def longer(values: Int32, fill: int) -> Int32:
        return fill_up(values, size, fill)

    table = np.full((size, width), -1, np.int32)
    table[: len(step.block_table), : step.block_table.shape[1]] = step.block_table
    return StepInputs(
        token_ids=longer(step.token_ids, 0),
        positions=longer(step.positions, 0),
        slot_mapping=longer(step.slot_mapping, -1),
        query_start=np.arange(size + 1, dtype=np.int32),
        seq_lens=longer(step.seq_lens, 0),
        block_table=table,
        logit_rows=np.arange(size, dtype=np.int32),
    )


def fill_up(values: NDArray[Any], size: int, fill: float) -> NDArray[Any]:
    """The values, and `fill` behind them."""
    return np.concatenate([values, np.full(size - len(values), fill, values.dtype)])
