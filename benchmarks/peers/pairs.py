"""Pairs: the machine's peaks, headrace and one peer's engine, measured in one turn.

In: loaded runners and a cell. Out: Pair records; a ratio is taken inside its pair only, because
these machines drift by 2x within minutes. Knows nothing of installations or of who takes part.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import Cell
from engines import BUILD, Engine
from runner import Runner
from turn import Turn

from headrace.core.machine import Roof
from headrace.ops.table import probe_roof

WARM_UP = ((1, 512, 4), (4, 16, 4))
"""(requests, prompt tokens, output tokens): each kind of step once, not counted."""


@dataclass(frozen=True, slots=True)
class Pair:
    """headrace and one engine, one after the other. Units: those of the cell."""

    cell: str
    engine: str
    round: int
    ours: float
    theirs: float
    ratio: float
    roof: Roof


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement needs: turn, threads, source of prompts, folder of runners' logs."""

    turn: Turn
    num_threads: int
    source: random.Random
    logs: Path = BUILD / "logs"

    def options(self) -> dict[str, Any]:
        """Limits that hold for every engine. Units: tokens, requests."""
        return {
            "max_model_len": 1024,
            "max_num_seqs": 32,
            "max_num_batched_tokens": 2048,
            "num_threads": self.num_threads,
        }

    def open(self, engine: Engine, gguf: Path) -> tuple[Runner, float]:
        """Load a model; the runner, and the seconds from the process's start to a first token.

        Raises: RunnerFailed.
        """
        log = self.logs / f"{engine.name}-{gguf.stem}.log"
        runner = Runner(engine.command, engine.variables, log)
        try:
            load_s = runner.load(self.turn, str(engine.model_path(gguf)), self.options())
            with self.turn:
                started = time.perf_counter()
                runner.run(self._prompts(1, 16), 1)
                start_s = load_s + time.perf_counter() - started
        except BaseException:
            runner.close()
            raise
        return runner, start_s

    def warm_up(self, runner: Runner) -> None:
        """Raises: RunnerFailed."""
        with self.turn:
            for num_requests, prompt_tokens, output_tokens in WARM_UP:
                runner.run(self._prompts(num_requests, prompt_tokens), output_tokens)

    def pair(self, cell: Cell, number: int, ours: Runner, theirs: Runner, name: str) -> Pair:
        """Probe, run ours, run theirs; which of the two is first alternates by round.

        Raises: RunnerFailed.
        """
        with self.turn:
            roof = probe_roof(self.num_threads)
            values = {}
            for runner in (ours, theirs) if number % 2 == 0 else (theirs, ours):
                values[runner] = self._value(cell, runner)
        ratio = cell.ratio(values[ours], values[theirs])
        return Pair(cell.name, name, number, values[ours], values[theirs], ratio, roof)

    def start_pair(self, cell: Cell, number: int, ours: Engine, theirs: Engine, gguf: Path) -> Pair:
        """The same for the start: both are loaded anew, and closed.

        Raises: RunnerFailed.
        """
        runner, theirs_s = self.open(theirs, gguf)
        runner.close()
        return self.start_beside(cell, number, ours, theirs.name, theirs_s, gguf)

    def start_beside(
        self, cell: Cell, number: int, ours: Engine, name: str, theirs_s: float, gguf: Path
    ) -> Pair:
        """A start of headrace, right after that of a peer. Raises: RunnerFailed."""
        runner, ours_s = self.open(ours, gguf)
        runner.close()
        with self.turn:
            roof = probe_roof(self.num_threads)
        return Pair(cell.name, name, number, ours_s, theirs_s, cell.ratio(ours_s, theirs_s), roof)

    def _value(self, cell: Cell, runner: Runner) -> float:
        return cell.value(runner.run(cell.prompts(self.source), cell.output_tokens))

    def _prompts(self, num_requests: int, prompt_tokens: int) -> list[list[int]]:
        return Cell("", "together", num_requests, prompt_tokens, 1).prompts(self.source)
