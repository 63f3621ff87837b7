"""Shows how far a load is, and why requests fail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import TimeElapsedColumn

from headrace.bench.outcome import Outcome
from headrace.cli.progress_views import CountView, count_view


class LoadView:
    """Counts requests that ended; the first failure of each kind gets a line."""

    def __init__(self, view: CountView) -> None:
        self._view = view
        self._kinds: set[str] = set()

    def show(self, outcome: Outcome) -> None:
        """Count a request that ended."""
        failure = outcome.failure
        if failure is not None and failure.kind not in self._kinds:
            self._kinds.add(failure.kind)
            self._view.say(f"failed: {failure.kind}: {failure.message}")
        self._view.count(has_failed=failure is not None)


@contextmanager
def load_progress(total: int) -> Iterator[LoadView]:
    """The view that suits stderr, while a load runs."""
    with count_view(total, "requests", TimeElapsedColumn()) as view:
        yield LoadView(view)
