"""How far something is, on stderr: a bar on a terminal, lines elsewhere.

In: a total, and each one as it ends. Out: stderr, while a block runs. What is counted is the
caller's concern.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn

# Longer than this nobody likes to look at nothing.
LINE_EVERY_S = 15.0


def write_line(line: str) -> None:
    """A line at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class BarView:
    """A bar with a description and more columns."""

    def __init__(self, *columns: ProgressColumn, expand: bool = False) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            *columns,
            console=Console(stderr=True),
            transient=True,
            expand=expand,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class LineView:
    """Lines, for logs and pipes."""

    def __init__(self, write: Callable[[str], None] = write_line) -> None:
        self._write = write

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class CountBar(BarView):
    """Counts to a total; `things` stands where nothing is said of the newest one."""

    def __init__(self, total: int, things: str, times: ProgressColumn) -> None:
        super().__init__(BarColumn(), MofNCompleteColumn(), times)
        self._things, self._num_failed = things, 0
        self._task = self._progress.add_task(things, total=total)

    def say(self, line: str) -> None:
        """What only lines have room for."""

    def begin(self, what: str) -> None:
        """What goes on before the next one is counted."""
        self._progress.update(self._task, description=what)

    def count(self, *, has_failed: bool, what: str = "") -> None:
        """One more."""
        self._num_failed += has_failed
        shown = f"{what or self._things}{failures(self._num_failed)}"
        self._progress.update(self._task, advance=1, description=shown)


class CountLines(LineView):
    """A line for every tenth of a total, and where a tenth takes long for what came meanwhile."""

    def __init__(
        self,
        total: int,
        things: str,
        write: Callable[[str], None] = write_line,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(write)
        self._total, self._things, self._now_s = total, things, now_s
        self._num_done = self._num_failed = self._tenth = 0
        self._told_at_s = now_s()

    def say(self, line: str) -> None:
        """A line of its own."""
        self._told_at_s = self._now_s()
        self._write(line)

    begin = say

    def count(self, *, has_failed: bool, what: str = "") -> None:
        """One more."""
        self._num_done += 1
        self._num_failed += has_failed
        tenth = 10 * self._num_done // max(1, self._total)
        if tenth > self._tenth or self._now_s() - self._told_at_s >= LINE_EVERY_S:
            self._tenth = tenth
            shown = f", {what}" if what else ""
            counts = f"{self._num_done} of {self._total} {self._things}"
            self.say(f"{counts}{shown}{failures(self._num_failed)}")


CountView = CountBar | CountLines


def count_view(total: int, things: str, times: ProgressColumn) -> CountView:
    """The view that suits stderr. `times` is the column of a bar that says how long it takes."""
    if sys.stderr.isatty():
        return CountBar(total, things, times)
    return CountLines(total, things)


def failures(count: int) -> str:
    """What is said of those that failed: nothing of none."""
    return f", {count} failed" if count else ""
