"""Shows how far a load is: a bar on a terminal, a line for every tenth elsewhere, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from headrace.bench.outcome import Outcome


class LoadBar:
    """A bar with counts, time and failures."""

    def __init__(self, total: int) -> None:
        self._num_failed = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("requests", total=total)

    def __enter__(self) -> LoadBar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, outcome: Outcome) -> None:
        """Count a request that ended."""
        self._num_failed += not outcome.is_finished
        failed = f", {self._num_failed} failed" if self._num_failed else ""
        self._progress.update(self._task, advance=1, description=f"requests{failed}")


class LoadLines:
    """A line at every tenth, and one for the first failure of each kind."""

    def __init__(self, total: int, write: Callable[[str], None]) -> None:
        self._total, self._write = total, write
        self._num_ended = self._num_failed = self._tenth = 0
        self._kinds: set[str] = set()

    def __enter__(self) -> LoadLines:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def show(self, outcome: Outcome) -> None:
        """Count a request that ended."""
        self._num_ended += 1
        if outcome.failure is not None:
            self._num_failed += 1
            if outcome.failure.kind not in self._kinds:
                self._kinds.add(outcome.failure.kind)
                self._write(f"failed: {outcome.failure.kind}: {outcome.failure.message}")
        tenth = 10 * self._num_ended // self._total
        if tenth > self._tenth:
            self._tenth = tenth
            failed = f", {self._num_failed} failed" if self._num_failed else ""
            self._write(f"{self._num_ended} of {self._total} requests{failed}")


def load_progress(total: int) -> LoadBar | LoadLines:
    """The view that suits stderr."""
    return LoadBar(total) if sys.stderr.isatty() else LoadLines(total, _write_line)


def _write_line(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
