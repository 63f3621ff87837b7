"""DeviceChoices: steps whose tokens the device chooses and reads in the next one.

In: scheduled requests that are plain, their flat arrays. Out: results that wait for the step when
they are asked for. Owns which row of the newest step chooses whose token. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from headrace.core.step import (
    UNKNOWN_TOKEN,
    ModelRunnerOutput,
    RowOutput,
    ScheduledRequest,
    SchedulerOutput,
)
from headrace.ops.protocol import ChoosingStep, PendingTokens
from headrace.ops.step_inputs import Int32, StepInputs
from headrace.sampling.no_choice import DAMAGED
from headrace.sampling.sample_rows import SampleGatherer, SampleRow

PendingOutput = Callable[[], ModelRunnerOutput]


class DeviceChoices:
    """Starts steps in the order given; each may read what the one before chooses."""

    def __init__(self, run: ChoosingStep) -> None:
        self._run = run
        self._gatherer = SampleGatherer()
        self._row_of: dict[str, int] = {}

    def can_take(
        self, scheduled: Sequence[ScheduledRequest], rows: Mapping[str, SampleRow]
    ) -> bool:
        """Whether the device can do it all: there is something, all plain, without guesses."""
        return bool(scheduled) and all(
            rows[request.request_id].is_plain and not request.num_draft_tokens
            for request in scheduled
        )

    def submit(
        self, output: SchedulerOutput, step: StepInputs, rows: Mapping[str, SampleRow]
    ) -> PendingOutput:
        """Start a step.

        Raises: RuntimeError for a token that the step before does not choose.
        """
        sources = self._sources(output.scheduled, step)
        sampled = [request for request in output.scheduled if request.is_sampled]
        own = [rows[request.request_id] for request in sampled]
        places = [request.num_computed_tokens + len(request.token_ids) for request in sampled]
        step = replace(step, token_ids=np.maximum(step.token_ids, 0))
        tokens = self._run(step, sources, self._gatherer.gather_plain(own, places))
        self._row_of = {request.request_id: row for row, request in enumerate(sampled)}
        return partial(_collect, output, own, tokens)

    def _sources(self, scheduled: Sequence[ScheduledRequest], step: StepInputs) -> Int32:
        """The rows that choose the step's unknown tokens, -1 for the known. Shapes: [T]."""
        sources = np.full(len(step.token_ids), -1, dtype=np.int32)
        last_places = (step.query_start[1:] - 1).tolist()
        for request, place in zip(scheduled, last_places, strict=True):
            if request.token_ids[-1] == UNKNOWN_TOKEN:
                row = self._row_of.get(request.request_id)
                if row is None:
                    raise RuntimeError(f"No step chooses a token for {request.request_id!r}.")
                sources[place] = row
        return sources


def _collect(
    output: SchedulerOutput, rows: Sequence[SampleRow], tokens: PendingTokens
) -> ModelRunnerOutput:
    """Wait for a step. Mutates: rows."""
    found = {request.request_id: RowOutput() for request in output.scheduled}
    for row, token_id in zip(rows, tokens().tolist(), strict=True):
        if token_id < 0:
            found[row.new.request_id] = RowOutput(error=DAMAGED)
        else:
            row.append(token_id)
            found[row.new.request_id] = RowOutput((token_id,))
    return ModelRunnerOutput(output.step_id, found)
