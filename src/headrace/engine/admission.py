"""Admission: whether there is room for a request, and how long it would wait for its first step.

In: reports of steps, requests that want in. Out: nothing, a CapacityError that says when to come
back, or a TooManyAnswers where that would not help. The wait is what the queue shows: how many are
before a request, and how fast their like were started lately (Little's law). Answers of unknown
length are not guessed at.
"""

from __future__ import annotations

import math

from headrace.core.errors import CapacityError, TooManyAnswers
from headrace.core.step import StepReport
from headrace.engine.stats import EngineStats

MEMORY_S = 30.0
"""What lies so far back counts 1/e."""
# Longer waits make clients give up their own retries (api.md 2.4).
MAX_RETRY_AFTER_S = 120.0


class Admission:
    """Room and waiting time of one engine. `observe` belongs to one thread, `check` to any."""

    def __init__(self, max_num_requests: int, stats: EngineStats) -> None:
        """`max_num_requests` is the scheduler's limit of unfinished answers."""
        self.max_num_requests = max_num_requests
        self._stats = stats
        # While something waited: seconds, and requests that were started in them; both fading.
        self._waited_s = self._num_started = 0.0
        self._num_passed = self._num_waiting = 0
        self._reported_at_s = self._newest_start_s = -math.inf

    def observe(self, report: StepReport) -> None:
        """Take in a step. Mutates: self."""
        starts_s = [row.scheduled_at_s for row in report.progress if row.scheduled_at_s is not None]
        num_started = sum(at_s > self._newest_start_s for at_s in starts_s)
        self._newest_start_s = max(starts_s, default=self._newest_start_s)
        if self._num_waiting:
            step_s = max(0.0, report.ended_at_s - self._reported_at_s)
            fading = math.exp(-step_s / MEMORY_S)
            self._waited_s = fading * self._waited_s + step_s
            self._num_started = fading * self._num_started + num_started
        self._reported_at_s = report.ended_at_s
        # Background requests let every other one pass.
        stats = report.stats
        self._num_waiting = stats.num_waiting - stats.num_background_waiting
        self._num_passed = stats.num_running + stats.num_background_waiting

    def predict_wait_s(self, num_unfinished: int) -> float:
        """Seconds until a request that comes now runs; 0 when nothing waited in the last step."""
        if not self._num_waiting:
            return 0.0
        num_before = max(self._num_waiting, num_unfinished - self._num_passed)
        return (num_before + 1) * self._s_per_start()

    def predict_start_s(self, queue_position: int) -> float:
        """Seconds until the request at this place of the queue, from 1, runs."""
        return queue_position * self._s_per_start()

    def check_size(self, num_answers: int, num_call_answers: int) -> None:
        """Refuse what would not fit if nothing else were there. Raises: TooManyAnswers."""
        num_together = max(num_answers, num_call_answers)
        if num_together > self.max_num_requests:
            raise TooManyAnswers(num_together, self.max_num_requests, num_answers)

    def check(self, num_unfinished: int, num_answers: int, patience_s: float | None) -> None:
        """Refuse what cannot be taken, or what would wait longer than its client does.

        Raises: CapacityError.
        """
        if num_unfinished + num_answers > self.max_num_requests:
            self._stats.count_rejection()
            raise CapacityError(
                f"{num_unfinished} answers are in progress or queued and {num_answers} more were "
                f"asked for; the limit is {self.max_num_requests}. Try again later.",
                _bounded(num_answers * self._s_per_start()),
            )
        wait_s = self.predict_wait_s(num_unfinished)
        if patience_s is not None and wait_s > patience_s:
            self._stats.count_rejection()
            raise CapacityError(
                f"The request would wait about {wait_s:.0f} s for its turn, and its client gives "
                f"up after {patience_s:g} s. Try again later, or wait longer.",
                _bounded(wait_s - patience_s),
                is_impatience=True,
            )

    def _s_per_start(self) -> float:
        # Where nothing was started yet, the first start is at least as far away as it has been.
        return self._waited_s / max(1.0, self._num_started)


def _bounded(retry_after_s: float) -> float:
    return min(max(1.0, retry_after_s), MAX_RETRY_AFTER_S)
