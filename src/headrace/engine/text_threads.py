"""TextThreads: where text is made of tokens and tokens of text, so that event loops only wait.

In: work, from any event loop. Out: its result, or an EngineDied for what had no turn before the
end. Knows nothing of what is worked on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from headrace.core.errors import EngineDied

T = TypeVar("T")


class TextThreads:
    """A few threads and a queue before them. `end` them once."""

    def __init__(self, num_threads: int) -> None:
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="headrace-text")
        self._is_over = False

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Wait for a turn and for the result. Raises: EngineDied, what the work raises."""

        def take_turn() -> T:
            if self._is_over:
                raise _stopped()
            return work(*arguments)

        if self._is_over:
            raise _stopped()
        try:
            turn = asyncio.get_running_loop().run_in_executor(self._pool, take_turn)
        except RuntimeError:  # they have ended since
            raise _stopped() from None
        return await turn

    def end(self) -> None:
        """What waits for a turn fails at once; what runs goes on to its end."""
        self._is_over = True
        self._pool.shutdown(wait=False)


def _stopped() -> EngineDied:
    return EngineDied("The engine was stopped.", retryable=True)
