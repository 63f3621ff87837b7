"""A rope table that is filled beside the caller: a short prompt needs little of a long one.

In: parameters. Out: a table whose first positions can be read soon. Owns the thread that fills it.
"""

from __future__ import annotations

import _thread
from threading import Lock

from headrace.ops.protocol import RopeParams
from headrace.ops.reference.rope import empty_table, fill_table
from headrace.ops.step_inputs import Int32


class RopeFill:
    """Fills `table`, from position 0 on."""

    def __init__(self, params: RopeParams) -> None:
        """Begin. Raises: ValueError, as rope_table does."""
        self.table = empty_table(params)
        self._params = params
        self._num_ready = 0
        self._is_filling = Lock()
        self._is_filling.acquire()
        # A Thread would wait until it runs, which on cores busy with packing takes a while.
        _thread.start_new_thread(self._fill, ())

    @property
    def is_done(self) -> bool:
        return self._num_ready == self._params.max_positions

    def wait(self, positions: Int32 | None = None) -> None:
        """Wait until these positions can be read; None is all.

        Raises: RuntimeError where filling failed, for want of memory.
        """
        if positions is None or positions.max(initial=0) >= self._num_ready:
            with self._is_filling:
                pass
            if not self.is_done:
                raise RuntimeError(f"A rope table of {self._params.max_positions} was not filled.")

    def _fill(self) -> None:
        try:
            for num_ready in fill_table(self.table, self._params):
                self._num_ready = num_ready
        finally:
            self._is_filling.release()
