"""Shows a pull: a bar on a terminal, plain lines elsewhere. Also fetches what a command needs.

In: the moments of a pull. Out: stderr. Answers of commands go to stdout and never through here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from headrace.cli.interrupts import EXIT_INTERRUPTED, Interruptible
from headrace.cli.progress_views import BarView, LineView, write_line
from headrace.core.errors import ModelNotFound
from headrace.core.units import format_bytes
from headrace.hub.model_store import LocalModel, ModelStore
from headrace.hub.pull import PullProgress, Stage

LINE_EVERY_PERCENT = 10
MAX_NAME_COLUMNS = 24


def pull_model(store: ModelStore, name: str) -> LocalModel:
    """Pull a model and show how it goes."""
    view: PullBar | PullLines = PullBar() if sys.stderr.isatty() else PullLines()
    try:
        with Interruptible(), view:
            return store.pull(name, view.show)
    except KeyboardInterrupt:
        write_line(f"\nstopped; {describe_kept(store.partial_bytes(name))}")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def describe_kept(num_bytes: int) -> str:
    """What becomes of the bytes of an interrupted pull."""
    if not num_bytes:
        return "nothing was kept; the same command begins again"
    return f"kept {format_bytes(num_bytes)}; the same command goes on from there"


def ensure_model(store: ModelStore, name: str) -> LocalModel:
    """Find a model on this machine; one that the catalogue names is pulled when it is missing."""
    try:
        return store.resolve(name)
    except ModelNotFound:
        if store.catalogue.find(name) is None:
            raise
    return pull_model(store, name)


class PullBar(BarView):
    """A bar with bytes, speed and time left."""

    def __init__(self) -> None:
        super().__init__(
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            expand=True,
        )
        self._task: TaskID | None = None
        self._key: tuple[str, str, Stage] | None = None

    def show(self, moment: PullProgress) -> None:
        """Follow a moment of the pull."""
        key = (moment.file, moment.source, moment.stage)
        if key != self._key:
            self._key = key
            if self._task is not None:
                self._progress.remove_task(self._task)
                self._task = None
            line = describe(moment)
            if line and moment.stage in ("source_failed", "waiting", "connecting", "checked"):
                self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)
            if moment.stage in ("downloading", "verifying"):
                # The first moment of a resumed file is its start, so that speed counts new bytes.
                label = shorten(moment.name)
                if moment.stage == "verifying":
                    label = f"checking {label}"
                self._task = self._progress.add_task(escape(label), completed=moment.done_bytes)
        if self._task is not None:
            self._progress.update(self._task, completed=moment.done_bytes, total=moment.total_bytes)


class PullLines(LineView):
    """A line when something new begins and at every tenth of a file."""

    def __init__(self, write: Callable[[str], None] = write_line) -> None:
        super().__init__(write)
        self._key: tuple[str, str, Stage] | None = None
        self._percent = 0

    def show(self, moment: PullProgress) -> None:
        """Follow a moment of the pull."""
        key = (moment.file, moment.source, moment.stage)
        if key != self._key:
            self._key, self._percent = key, self._percent_of(moment)
            line = describe(moment)
            if line:
                self._write(line)
            return
        percent = self._percent_of(moment)
        if moment.stage == "downloading" and percent >= self._percent + LINE_EVERY_PERCENT:
            self._percent = percent
            size = f"{format_bytes(moment.done_bytes)} of {format_bytes(moment.total_bytes or 0)}"
            self._write(f"  {percent} % ({size})")

    @staticmethod
    def _percent_of(moment: PullProgress) -> int:
        return 100 * moment.done_bytes // moment.total_bytes if moment.total_bytes else 0


def describe(moment: PullProgress) -> str:
    """One line for the beginning of a stage; empty for what needs no words."""
    match moment.stage:
        case "waiting":
            return f"{moment.name}: waiting, {moment.detail}"
        case "connecting":
            check = (
                f", to be checked against SHA-256 {moment.detail[:12]}..." if moment.detail else ""
            )
            return f"{moment.file} from {moment.source}{check}"
        case "downloading":
            total = format_bytes(moment.total_bytes) if moment.total_bytes else "size unknown"
            start = f", going on at {format_bytes(moment.done_bytes)}" if moment.done_bytes else ""
            return f"  downloading, {total}{start}"
        case "verifying":
            return "  verifying the checksum"
        case "checked":
            return f"  checked: {moment.file} has the SHA-256 {moment.detail[:12]}... it must have"
        case "source_failed":
            return f"  {moment.source} failed: {moment.detail}"
        case "done":
            return ""


def shorten(name: str) -> str:
    """A model's name that leaves room for the bar on 80 columns; its end tells models apart."""
    return name if len(name) <= MAX_NAME_COLUMNS else "…" + name[1 - MAX_NAME_COLUMNS :]
