"""Ranks: the processes that compute the other parts of a divided model, as rank 0 sees them.

In: what to load, then every step. Out: an agreement on memory, and one sentence when a process is
gone. Each is a child of the engine's process: it ends with its parent, whatever ends that. Knows
nothing of requests; results come through the ops (ops/rank_group.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace.core.engine_config import EngineConfig
from headrace.core.errors import EngineDied
from headrace.core.step import ModelRunnerOutput, SchedulerOutput
from headrace.engine.engine_process import EngineProcess
from headrace.engine.error_record import to_error
from headrace.engine.messages import (
    EngineEnded,
    EngineNotStarted,
    RankPlanned,
    RankReady,
    RanksAgreed,
    StartRank,
    Stop,
)
from headrace.executor.drafting_runner import Runner
from headrace.ops.rank_group import RankGroup

STOP_S = 2.0
"""What a rank may take to end after a Stop."""
EXPLAIN_S = 1.0
"""How long an error of rank 0 waits for the end of another rank, which is often what caused it."""

logger = logging.getLogger(__name__)


class Ranks:
    """Ranks 1 and up. Made, agreed with, met, watched; then steps; `close` them."""

    rank = 0

    def __init__(self, path: Path, engine: EngineConfig, free_bytes: int) -> None:
        self._size = engine.tensor_parallel_size
        level = max(logging.getLogger().getEffectiveLevel(), logging.ERROR)  # rank 0 says the rest
        self._processes = {
            rank: EngineProcess(StartRank(str(path), engine, free_bytes, rank, level))
            for rank in range(1, self._size)
        }
        self._group: RankGroup | None = None
        self._failure: str | None = None
        self._has_failed = threading.Event()
        self._is_closing = False

    def agree(self, num_blocks: int, group: RankGroup) -> int:
        """Wait for the plans of all ranks, say which is the least, and join the group with them.

        Raises: the error for which a rank has no plan; EngineDied when one ends.
        """
        plans: list[int] = [self._expect(rank, RankPlanned).num_blocks for rank in self._processes]
        least = min(num_blocks, *plans)
        self._group, address = group, group.open()
        for process in self._processes.values():
            process.send_now(RanksAgreed(least, address))
        group.join(address)
        return least

    def meet(self) -> None:
        """Wait until all have their weights. Raises: as `agree`."""
        for rank in self._processes:
            self._expect(rank, RankReady)

    def around(self, runner: Runner) -> RanksRunner:
        """A runner whose steps all ranks run."""
        return RanksRunner(runner, self)

    def watch(self, on_end: Callable[[str], None] | None = None) -> None:
        """Have `on_end` called, from another thread, with a sentence when a rank is gone.

        Without one the log is told, and this step or the next one fails.
        """
        for rank in self._processes:
            name = f"headrace-rank-{rank}"
            told = on_end or self._give_up
            threading.Thread(target=self._watch, args=(rank, told), name=name, daemon=True).start()

    def submit(self, output: SchedulerOutput) -> None:
        """Give all ranks a step. Raises: OSError when one is gone."""
        for process in self._processes.values():
            process.send_now(output)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Errors that come of the end of a rank become an EngineDied that says so.

        A step that went through without a rank is an error too: its numbers are any.
        """
        try:
            self._check()
            yield
            self._check()
        except Exception as error:
            self._has_failed.wait(EXPLAIN_S)
            if self._failure is None:
                raise
            raise EngineDied(self._failure) from error

    def close(self) -> None:
        """End all. Calling it twice is harmless."""
        self._is_closing = True
        for process in self._processes.values():
            process.send(Stop())
        for process in self._processes.values():
            process.close(STOP_S)
        if self._group is not None:
            self._group.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise ConnectionError(self._failure)

    def _give_up(self, sentence: str) -> None:
        """A GPU would wait for ever for the sums of a rank that is gone."""
        logger.critical("The engine cannot go on: %s.", sentence)
        if self._group is not None:
            self._group.close()

    def _expect(self, rank: int, kind: type[Any]) -> Any:
        """The next message of a rank, which has to be of this kind."""
        while True:
            try:
                replies = self._processes[rank].receive(None)
            except EOFError:
                raise EngineDied(self._describe(rank, self._processes[rank].close())) from None
            for reply in replies:
                if isinstance(reply, EngineNotStarted):
                    raise to_error(reply.error)
                if isinstance(reply, kind):
                    return reply

    def _watch(self, rank: int, on_end: Callable[[str], None]) -> None:
        process, how = self._processes[rank], None
        try:
            while True:
                for reply in process.receive(None):
                    if isinstance(reply, EngineEnded | EngineNotStarted):
                        how = _said(reply)
        except (EOFError, OSError):
            end = process.close()
        if self._is_closing or self._failure is not None:
            return
        self._failure = self._describe(rank, how or end)
        self._has_failed.set()
        on_end(self._failure)

    def _describe(self, rank: int, how: str) -> str:
        process_id = self._processes[rank].id
        return f"rank {rank} of {self._size} (process {process_id}) {how}"


class RanksRunner:
    """A runner whose steps all ranks run."""

    runs_ahead = False
    """The others learn of tokens with the input of the next step."""

    def __init__(self, runner: Runner, ranks: Ranks) -> None:
        self._runner, self._ranks = runner, ranks

    def submit(self, output: SchedulerOutput) -> None:
        """See Runner. Raises: EngineDied when a rank is gone."""
        with self._ranks.explaining():
            self._ranks.submit(output)
            self._runner.submit(output)

    def collect(self) -> ModelRunnerOutput:
        """See Runner. Raises: EngineDied when a rank is gone."""
        with self._ranks.explaining():
            return self._runner.collect()


def _said(reply: EngineEnded | EngineNotStarted) -> str:
    told = reply.error.message if isinstance(reply, EngineNotStarted) else reply.error
    return f"failed: {told}"
