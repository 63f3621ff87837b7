"""Steps up to their tokens: where they come from, the forward pass and the choice, on the device.

In: steps, the rows of the step before that chose their tokens, sampling parameters. Out: tokens,
when they are asked for. Decode steps are one graph per batch bucket, others run call by call; none
is waited for. Chosen tokens stay at one address until the next step has read and replaced them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray

from headrace.core.frozen import frozen
from headrace.ops.cuda import sampling
from headrace.ops.cuda.device_step import (
    DeviceStep,
    pack_arrays,
    step_arrays,
    to_device,
    view_arrays,
    view_step,
)
from headrace.ops.cuda.step_replay import (
    BUCKETS,
    Bucket,
    MakeGraph,
    bucket_size,
    fill_up,
    idle,
    is_decode,
    pad,
    table_width,
)
from headrace.ops.protocol import ForwardLogits, PendingTokens
from headrace.ops.step_inputs import Int32, SampleInputs, StepInputs


@frozen
class SentStep:
    """A step on the device, the rows its tokens come from, and how it chooses: views of `flat`."""

    step: DeviceStep
    sources: torch.Tensor
    parameters: Sequence[torch.Tensor]
    flat: torch.Tensor


class StepChoice:
    """Runs a forward pass and chooses. Owns the buckets and the tokens of the newest step."""

    def __init__(self, ops: Any, forward: ForwardLogits, make_graph: MakeGraph | None) -> None:
        self._ops, self._forward, self._make_graph = ops, forward, make_graph
        self._buckets: dict[tuple[int, int], Bucket] = {}
        self._chosen = torch.zeros(BUCKETS[-1], dtype=torch.int32, device=ops.device)

    def __call__(self, step: StepInputs, sources: Int32, inputs: SampleInputs) -> PendingTokens:
        """See ChoosingStep."""
        self._make_room(len(step.logit_rows))
        if self._make_graph is None or not is_decode(step):
            self._run(self._send(step, sources, sampling.choice_arrays(inputs)))
        else:
            self._replay(step, sources, sampling.choice_arrays(inputs))
        return read_later(self._chosen[: len(step.logit_rows)])

    def _make_room(self, num_rows: int) -> None:
        """Graphs keep the address of the tokens, so more room is room for new graphs."""
        if num_rows > len(self._chosen):
            more = torch.zeros_like(self._chosen[:1]).repeat(2 * num_rows)
            more[: len(self._chosen)] = self._chosen
            self._chosen = more
            self._buckets.clear()

    def _run(self, sent: SentStep) -> Sequence[torch.Tensor]:
        """Some rows' logits are chosen from before the next ones are made."""
        sampling.take_tokens(sent.step.token_ids, sent.sources, self._chosen)
        start = 0
        for logits in self._forward(self._ops, sent.step):  # type: ignore[arg-type]
            end = start + len(logits)
            parameters = [part[start:end] for part in sent.parameters]
            sampling.choose(logits, parameters, self._chosen[start:end])
            start = end
            del logits  # before the next ones are made
        return ()

    def _replay(self, step: StepInputs, sources: Int32, parameters: list[NDArray[Any]]) -> None:
        size = bucket_size(len(step.seq_lens))
        padded = pad(step, size, table_width(step.block_table.shape[1]))
        sources = fill_up(sources, size, -1)
        # Zeros are greedy; a row of them is not read.
        parameters = [fill_up(array, size, 0) for array in parameters]
        key = (size, padded.block_table.shape[1])
        if key not in self._buckets:
            self._buckets[key] = self._capture(padded, sources, parameters)
        self._buckets[key].launch(pack_arrays([*step_arrays(padded), sources, *parameters]))

    def _capture(self, step: StepInputs, sources: Int32, parameters: list[NDArray[Any]]) -> Bucket:
        sent = self._send(idle(step), sources, parameters)
        assert self._make_graph is not None  # noqa: S101 - the caller has one
        graph, chosen = self._make_graph(), self._chosen.clone()
        outputs = graph.capture(lambda: self._run(sent))
        self._chosen.copy_(chosen)  # warming up has chosen too
        return Bucket(sent.flat, graph, outputs)

    def _send(self, step: StepInputs, sources: Int32, parameters: list[NDArray[Any]]) -> SentStep:
        """One copy for everything."""
        arrays = [*step_arrays(step), sources, *parameters]
        flat = to_device(pack_arrays(arrays), self._ops.device)
        views = list(view_arrays(flat, arrays))
        rest = views[len(step_arrays(step)) :]
        return SentStep(view_step(step, flat), rest[0], rest[1:], flat)


def read_later(tokens: torch.Tensor) -> PendingTokens:
    """A copy of what the tokens will be when the device has come this far."""
    if tokens.device.type != "cuda":
        kept = tokens.clone()
        return kept.numpy
    host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    host.copy_(tokens, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def read() -> Int32:
        copied.synchronize()
        result: Int32 = host.numpy()
        return result

    return read
