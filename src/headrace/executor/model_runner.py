"""ModelRunner: executes a step and chooses its tokens.

In: SchedulerOutput. Out: ModelRunnerOutput. Owns the sampling rows of running requests and, through
the ops, the KV arrays. Knows nothing of queues, text or stop conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headrace.core.step import (
    ModelRunnerOutput,
    RowOutput,
    ScheduledRequest,
    SchedulerOutput,
    TokenLogprobs,
)
from headrace.executor.input_batch import flatten
from headrace.executor.memory import MAX_LOGIT_ROWS
from headrace.models.llama import Hidden, Llama
from headrace.ops.protocol import Array, KVCache, Logprobs, Ops
from headrace.ops.step_inputs import Int32
from headrace.sampling.sample_rows import SampleRow, gather, make_row


@dataclass(frozen=True, slots=True)
class LogitRow:
    """A wanted row of logits: whose it is, and the prompt token it predicts, or None to sample."""

    request: ScheduledRequest
    sample_row: SampleRow
    position: int
    prompt_token_id: int | None

    @property
    def num_top(self) -> int | None:
        params = self.sample_row.sampling
        return params.logprobs if self.prompt_token_id is None else params.prompt_logprobs


class ModelRunner:
    """Runs a model over its KV cache, one step at a time.

    `submit` starts a step and `collect` returns its result; on CPU the work is done in `submit`.
    """

    def __init__(self, model: Llama, cache: KVCache, ops: Ops) -> None:
        self.model, self.cache, self.ops = model, cache, ops
        self._rows: dict[str, SampleRow] = {}
        self._finished: list[ModelRunnerOutput] = []

    def submit(self, output: SchedulerOutput) -> None:
        """Execute a step. Requests named finished are forgotten first."""
        for request_id in output.finished_request_ids:
            self._rows.pop(request_id, None)
        for new in output.new_requests:
            self._rows[new.request_id] = make_row(new, self.model.config.vocab_size)
        rows: dict[str, list[TokenLogprobs]] = {r.request_id: [] for r in output.scheduled}
        tokens: dict[str, int] = {}
        chosen: dict[str, TokenLogprobs] = {}
        if output.scheduled:
            step = flatten(output.scheduled, self.cache.block_size)
            hidden = self.model.forward(step, self.cache)
            wanted = self._wanted(output.scheduled)
            for start in range(0, len(wanted), MAX_LOGIT_ROWS):
                part = wanted[start : start + MAX_LOGIT_ROWS]
                self._choose(
                    hidden, step.logit_rows[start : start + len(part)], part, rows, tokens, chosen
                )
        self._finished.append(
            ModelRunnerOutput(
                output.step_id,
                {
                    request_id: RowOutput(
                        token_ids=(tokens[request_id],) if request_id in tokens else (),
                        logprobs=(chosen[request_id],) if request_id in chosen else (),
                        prompt_logprobs=tuple(prompt),
                    )
                    for request_id, prompt in rows.items()
                },
            )
        )

    def collect(self) -> ModelRunnerOutput:
        """The oldest submitted step's result."""
        return self._finished.pop(0)

    def _wanted(self, scheduled: Sequence[ScheduledRequest]) -> list[LogitRow]:
        wanted = []
        for request in scheduled:
            row = self._rows[request.request_id]
            prompt = row.new.prompt_token_ids
            end = request.num_computed_tokens + len(request.token_ids)
            for position in range(end - request.num_logit_rows + 1, end + 1):
                is_last = position == end and request.is_sampled
                token_id = None if is_last else prompt[position]
                wanted.append(LogitRow(request, row, position, token_id))
        return wanted

    def _choose(
        self,
        hidden: Hidden,
        flat_rows: Int32,
        wanted: Sequence[LogitRow],
        prompt_logprobs: dict[str, list[TokenLogprobs]],
        tokens: dict[str, int],
        chosen: dict[str, TokenLogprobs],
    ) -> None:
        logits = self.model.logits(hidden, flat_rows)  # [S, V]
        token_ids = np.array([row.prompt_token_id or 0 for row in wanted], dtype=np.int32)
        asked = [index for index, row in enumerate(wanted) if row.num_top is not None]
        raw = logits[asked] if asked else None  # a copy: sampling changes logits in place
        sampled = [index for index, row in enumerate(wanted) if row.prompt_token_id is None]
        if sampled:
            token_ids[sampled] = self._sample(logits, sampled, wanted)
        for index in sampled:
            row = wanted[index]
            token_id = int(token_ids[index])
            row.sample_row.append(token_id)
            tokens[row.request.request_id] = token_id
        if raw is None:
            return
        num_top = max(wanted[index].num_top or 0 for index in asked)
        result = self.ops.logprobs(raw, token_ids[asked], num_top)
        for place, index in enumerate(asked):
            row = wanted[index]
            record = to_record(result, place, int(token_ids[index]), row.num_top or 0)
            if row.prompt_token_id is None:
                chosen[row.request.request_id] = record
            else:
                prompt_logprobs[row.request.request_id].append(record)

    def _sample(self, logits: Array, sampled: list[int], wanted: Sequence[LogitRow]) -> Int32:
        rows = logits if len(sampled) == len(logits) else np.ascontiguousarray(logits[sampled])
        inputs = gather(
            [wanted[index].sample_row for index in sampled],
            [wanted[index].position for index in sampled],
            self.model.config.vocab_size,
        )
        self.ops.adjust_logits(rows, inputs)
        return self.ops.sample(rows, inputs)


def to_record(result: Logprobs, place: int, token_id: int, num_top: int) -> TokenLogprobs:
    """One row of Logprobs as a record."""
    return TokenLogprobs(
        token_id=token_id,
        logprob=float(result.logprobs[place]),
        rank=int(result.ranks[place]),
        top_token_ids=tuple(result.top_ids[place, :num_top].tolist()),
        top_logprobs=tuple(result.top_logprobs[place, :num_top].tolist()),
    )
