"""LateOps: the reference as a device that is behind and chooses tokens by itself.

A step runs when its tokens are asked for, after those before it. What the host gave it is taken
apart at once, so a step that looks at anything the host changes later gives a wrong result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headrace.core.errors import InvalidLogits
from headrace.ops.protocol import ForwardLogits, KVCache, PendingTokens
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.ops.step_inputs import Int32, SampleInputs, StepInputs

COLUMNS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seeds", "positions",
           "repetition_penalty", "presence_penalty", "frequency_penalty")  # fmt: skip


class LateOps(ReferenceOps):
    """Reference ops with steps that wait. `steps` are all that were recorded."""

    def __init__(self, dtype: Any = np.float32) -> None:
        super().__init__(dtype)
        self.steps: list[LateSteps] = []

    def record_choices(self, forward: ForwardLogits) -> LateSteps:
        self.steps.append(LateSteps(self, forward))
        return self.steps[-1]

    def copy_blocks(self, cache: KVCache, pairs: Sequence[tuple[int, int]]) -> None:
        for steps in self.steps:
            steps.finish()
        super().copy_blocks(cache, pairs)


@dataclass
class Late:
    """A step that was started. `tokens` are there when it has run."""

    step: StepInputs
    sources: Int32
    inputs: SampleInputs
    tokens: Int32 | None = None


class LateSteps:
    """A ChoosingStep over a queue."""

    def __init__(self, ops: LateOps, forward: ForwardLogits) -> None:
        self._ops, self._forward = ops, forward
        self._queue: deque[Late] = deque()
        self._chosen = np.zeros(0, np.int32)
        self.num_steps = self.num_ahead = 0

    def __call__(self, step: StepInputs, sources: Int32, inputs: SampleInputs) -> PendingTokens:
        self.num_steps += 1
        self.num_ahead += bool(self._queue)
        late = Late(step, sources, inputs)
        self._queue.append(late)

        def read() -> Int32:
            while late.tokens is None:
                self._run(self._queue.popleft())
            return late.tokens

        return read

    def finish(self) -> None:
        """Run what was started."""
        while self._queue:
            self._run(self._queue.popleft())

    def _run(self, late: Late) -> None:
        token_ids = late.step.token_ids.copy()
        taken = late.sources >= 0
        token_ids[taken] = np.maximum(self._chosen[late.sources[taken]], 0)
        groups = self._forward(self._ops, replace(late.step, token_ids=token_ids))
        late.tokens = self._chosen = self._choose(groups, late.inputs)

    def _choose(self, groups: Iterable[Any], inputs: SampleInputs) -> Int32:
        tokens: list[int] = []
        for logits in groups:
            for row in logits:
                s = slice(len(tokens), len(tokens) + 1)
                own = SampleInputs(**{name: getattr(inputs, name)[s] for name in COLUMNS})
                try:
                    tokens += self._ops.sample(row[None], own).tolist()
                except InvalidLogits:
                    tokens.append(-1)
        return np.array(tokens, np.int32)
