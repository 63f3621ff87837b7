"""Shows how far a profile is, and which tier answers what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import TimeRemainingColumn

from headrace.cli.progress_views import CountView, count_view
from headrace.planner.journal import Answer


class AnswerView:
    """Counts answers."""

    def __init__(self, view: CountView) -> None:
        self._view = view

    def show(self, answer: Answer) -> None:
        """One more."""
        what = f"{answer.tier}: {answer.call}"
        self._view.count(has_failed=answer.error is not None, what=what)


@contextmanager
def answer_progress(total: int) -> Iterator[AnswerView]:
    """The view that suits stderr. `total` is what was missing when it began."""
    with count_view(total, "answers", TimeRemainingColumn()) as view:
        yield AnswerView(view)
