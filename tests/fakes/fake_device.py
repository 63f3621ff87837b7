"""FakeDevice: a runner with latency. A step is computed when its result is asked for, no earlier.

By then the next one is submitted, so whatever was planned, freed or given away in between shows:
as a wrong answer of the FakeRunner inside, which reads tokens back through the block tables, or as
an error here. A token that the host does not know is the one that the step before chose.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from fakes.fake_runner import FakeRunner
from headrace.cache.block_pool import BlockPool
from headrace.core.step import UNKNOWN_TOKEN, ModelRunnerOutput, ScheduledRequest, SchedulerOutput

MAX_FLYING = 2


class FakeDevice:
    """Computes the steps of a runner late, in the order submitted."""

    runs_ahead = True

    def __init__(self, runner: FakeRunner, pool: BlockPool) -> None:
        self._runner, self._pool = runner, pool
        self._flying: deque[SchedulerOutput] = deque()
        self._chosen: dict[str, int] = {}
        self.num_ahead = 0
        """Steps that were submitted while another one was on its way."""
        self.num_unknown = 0
        """Tokens that the host did not know."""

    def submit(self, output: SchedulerOutput) -> None:
        self.num_ahead += bool(self._flying)
        self._flying.append(output)
        assert len(self._flying) <= MAX_FLYING
        self.check_blocks()

    def collect(self) -> ModelRunnerOutput:
        output = self._flying.popleft()
        known = tuple(self._with_known_tokens(row) for row in output.scheduled)
        self._runner.submit(replace(output, scheduled=known))
        result = self._runner.collect()
        self._chosen = {
            name: row.token_ids[-1] for name, row in result.rows.items() if row.token_ids
        }
        return result

    def check_blocks(self) -> None:
        """Every block of a step on its way has a user; none of them is written by two requests."""
        writers: dict[int, str] = {}
        for output in self._flying:
            for row in output.scheduled:
                assert all(self._pool.num_users(block_id) for block_id in row.block_ids)
                for block_id in self._written(row):
                    assert writers.setdefault(block_id, row.request_id) == row.request_id

    def _written(self, row: ScheduledRequest) -> set[int]:
        size = self._runner.block_size
        end = row.num_computed_tokens + len(row.token_ids)
        return {row.block_ids[place // size] for place in range(row.num_computed_tokens, end)}

    def _with_known_tokens(self, row: ScheduledRequest) -> ScheduledRequest:
        if row.token_ids[-1] != UNKNOWN_TOKEN:
            return row
        self.num_unknown += 1
        return row._replace(token_ids=(*row.token_ids[:-1], self._chosen[row.request_id]))
