"""FakeRunner: a runner whose KV cache is real and whose model is a hash.

A slot holds the token and position that were stored there. The next token is a function of the
tokens read back through the block table, so a wrong table, a block given away too early or a
prefix hit on other content changes the answer. Keeps what a runner keeps, to show what leaks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from hashlib import blake2b

from headrace.core.step import (
    ModelRunnerOutput,
    NewRequest,
    RowOutput,
    ScheduledRequest,
    SchedulerOutput,
    TokenLogprobs,
)


def next_token(token_ids: Sequence[int], seed: int, vocab_size: int) -> int:
    """The model: what follows these tokens."""
    text = f"{seed}:{','.join(map(str, token_ids))}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little") % vocab_size


def expected_output(
    prompt: Sequence[int], seed: int, num_tokens: int, vocab_size: int
) -> tuple[int, ...]:
    """What an unlimited engine would answer."""
    token_ids = list(prompt)
    for _ in range(num_tokens):
        token_ids.append(next_token(token_ids, seed, vocab_size))
    return tuple(token_ids[len(prompt) :])


Model = Callable[[Sequence[int], NewRequest], int]


class FakeRunner:
    """Executes steps over slots in a dict. `steps` keeps every plan it was given.

    `model` replaces the hash: tokens read back, request -> next token. Steps from
    `first_gated_step` on wait while `gate` is closed; each raises `failure` when there is one.
    The token number `complete_at` of an answer completes its form.
    """

    runs_ahead = False

    def __init__(self, block_size: int, vocab_size: int = 1000, model: Model | None = None) -> None:
        self.block_size, self.vocab_size = block_size, vocab_size
        self._model = model or (lambda ids, new: next_token(ids, new.seed, vocab_size))
        self.gate = threading.Event()
        self.gate.set()
        self.first_gated_step = 1
        self.failure: Exception | None = None
        self.complete_at: int | None = None
        self.slots: dict[int, tuple[int, int]] = {}
        self.known: dict[str, NewRequest] = {}
        self.seen: dict[str, int] = {}
        self.steps: list[SchedulerOutput] = []
        self._results: list[ModelRunnerOutput] = []

    def submit(self, output: SchedulerOutput) -> None:
        self.steps.append(output)
        if len(self.steps) >= self.first_gated_step:
            self.gate.wait()
        if self.failure is not None:
            raise self.failure
        for request_id in output.finished_request_ids:
            del self.known[request_id]
        for source, block_id in output.block_copies:
            self._copy(source, block_id)
        for new in output.new_requests:
            assert new.request_id not in self.known
            self.known[new.request_id] = new
        for row in output.scheduled:  # all stores come before all reads, as in a layer
            self._store(row)
        rows = {row.request_id: self._read(row) for row in output.scheduled}
        self._results.append(ModelRunnerOutput(output.step_id, rows))

    def collect(self) -> ModelRunnerOutput:
        return self._results.pop(0)

    def _copy(self, source: int, block_id: int) -> None:
        for place in range(self.block_size):
            held = self.slots.get(source * self.block_size + place)
            if held is None:
                self.slots.pop(block_id * self.block_size + place, None)
            else:
                self.slots[block_id * self.block_size + place] = held

    def _slot(self, row: ScheduledRequest, position: int) -> int:
        block_id = row.block_ids[position // self.block_size]
        return block_id * self.block_size + position % self.block_size

    def _store(self, row: ScheduledRequest) -> None:
        for position, token_id in enumerate(row.token_ids, row.num_computed_tokens):
            self.slots[self._slot(row, position)] = (token_id, position)

    def _read(self, row: ScheduledRequest) -> RowOutput:
        end = row.num_computed_tokens + len(row.token_ids) - row.num_draft_tokens
        read = [self.slots[self._slot(row, position)] for position in range(end)]
        assert [position for _, position in read] == list(range(end))
        token_ids = [token_id for token_id, _ in read]
        new = self.known[row.request_id]
        if new.pooling is not None:
            return self._pool(row, new, token_ids)
        num_prompt_rows = row.num_logit_rows - row.num_draft_tokens - row.is_sampled
        first = end - num_prompt_rows - row.is_sampled
        prompt_logprobs = tuple(
            self._logprob(new.prompt_token_ids[position + 1], token_ids[: position + 1])
            for position in range(first, first + num_prompt_rows)
        )
        if not row.is_sampled:
            return RowOutput(prompt_logprobs=prompt_logprobs)
        chosen: list[int] = []
        logprobs: list[TokenLogprobs] = []
        is_complete = False
        while not is_complete and len(chosen) <= row.num_draft_tokens:
            token_id = self._model(token_ids, new)
            if new.sampling.logprobs is not None:
                logprobs.append(self._logprob(token_id, token_ids))
            chosen.append(token_id)
            is_complete = end + len(chosen) - len(new.prompt_token_ids) == self.complete_at
            place = len(token_ids)
            is_last = len(chosen) > row.num_draft_tokens
            if is_last or self.slots[self._slot(row, place)] != (token_id, place):
                break
            token_ids.append(token_id)
        return RowOutput(tuple(chosen), tuple(logprobs), prompt_logprobs, is_complete=is_complete)

    def _pool(self, row: ScheduledRequest, new: NewRequest, token_ids: list[int]) -> RowOutput:
        """A token's state is (token, 1, its position)."""
        end = len(token_ids)
        states = [(float(token), 1.0, float(at)) for at, token in enumerate(token_ids)]
        if new.pooling == "mean":
            assert row.num_logit_rows == len(row.token_ids)
            first = self.seen.get(row.request_id, 0) if row.num_computed_tokens else 0
            assert first == row.num_computed_tokens
            self.seen[row.request_id] = end
        if not row.is_sampled:
            return RowOutput()
        vector = states[-1]
        if new.pooling == "mean":
            vector = tuple(sum(values) / end for values in zip(*states, strict=True))  # type: ignore[assignment]
        return RowOutput(vector=vector, is_complete=True)

    def _logprob(self, token_id: int, before: Sequence[int]) -> TokenLogprobs:
        value = next_token([*before, token_id], 0, 1000) / -100.0
        return TokenLogprobs(token_id, value, 1, (token_id,), (value,))
