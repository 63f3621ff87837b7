"""Shows how far a profile is: a bar on a terminal, a line for every tenth elsewhere, on stderr."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headrace.planner.journal import Answer


class AnswerView:
    """Counts answers. `total` is what was missing when it began."""

    def __init__(self, total: int) -> None:
        self._total, self._num_done, self._num_failed = total, 0, 0
        self._tenth = 0
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.add_task("profile", total=total)

    def __enter__(self) -> AnswerView:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, answer: Answer) -> None:
        """One more."""
        self._num_done += 1
        self._num_failed += answer.error is not None
        where = f"{answer.tier}: {answer.call}"
        failed = f", {self._num_failed} failed" if self._num_failed else ""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=1, description=f"{where}{failed}")
            return
        tenth = 10 * self._num_done // max(1, self._total)
        if tenth > self._tenth:
            self._tenth = tenth
            sys.stderr.write(f"{self._num_done} of {self._total} answers, {where}{failed}\n")
            sys.stderr.flush()


def answer_progress(total: int) -> AnswerView:
    """The view that suits stderr."""
    return AnswerView(total)
