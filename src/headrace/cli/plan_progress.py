"""Shows how far a profile is, and which tier answers what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import TimeRemainingColumn

from headrace.cli.progress_views import CountView, count_view
from headrace.planner.journal import Answer
from headrace.planner.step_times import StepRun
from headrace.planner.workload import Tier


class ProfileView:
    """Counts answers and timed runs; says what a tier does before its first one."""

    def __init__(self, view: CountView) -> None:
        self._view = view

    def begin(self, tier: str, what: str) -> None:
        """Something that is not counted, and may take a while."""
        self._view.begin(f"{tier}: {what}")

    def answered(self, answer: Answer) -> None:
        """One more."""
        what = f"{answer.tier}: {answer.call}"
        self._view.count(has_failed=answer.error is not None, what=what)

    def timed(self, tier: Tier, run: StepRun) -> None:
        """One more."""
        what = f"{tier.name}: steps of {run.num_answers} after {run.num_words} words"
        self._view.count(has_failed=False, what=what)


@contextmanager
def profile_progress(num_answers: int, num_runs: int) -> Iterator[ProfileView]:
    """The view that suits stderr, of what was missing when it began."""
    things = "answers and timed runs" if num_runs else "answers"
    with count_view(num_answers + num_runs, things, TimeRemainingColumn()) as view:
        yield ProfileView(view)
