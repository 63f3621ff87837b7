"""A rope table that is filled as far as it is read: a short prompt needs little of a long one.

In: parameters, then the positions of each step. Out: a table whose values for them are there.
Belongs to one thread at a time, as the ops do.
"""

from __future__ import annotations

from headrace.ops.protocol import RopeParams
from headrace.ops.reference.rope import POSITIONS_AT_ONCE, empty_table, fill_table
from headrace.ops.step_inputs import Int32


class RopeFill:
    """Fills `table`, from position 0 on."""

    def __init__(self, params: RopeParams) -> None:
        """Nothing is computed yet. Raises: ValueError, as rope_table does."""
        self.table = empty_table(params)
        self._params = params
        self._num_filled = 0

    @property
    def is_done(self) -> bool:
        return self._num_filled >= self._params.max_positions

    def fill(self, positions: Int32 | None = None) -> None:
        """Compute what is missing up to the last of these; None is all. Mutates: table."""
        last = None if positions is None else positions.max(initial=-1)
        while not self.is_done and (last is None or last >= self._num_filled):
            fill_table(self.table, self._params, self._num_filled)
            self._num_filled += POSITIONS_AT_ONCE
