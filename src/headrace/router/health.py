"""HealthBook: what attempts have shown of each backend. The only writer of it is the router.

In: attempts as they begin and end. Out: who is busy, resting or slow. Whether a server is up is
known by its backend, which says so itself.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from headrace.core.clock import Clock
from headrace.core.errors import BackendError, CapacityError, UpstreamError

# The newest time to a first token counts this much.
NEWEST_SHARE = 0.2
# Fewer say nothing of a backend.
MIN_ANSWERS = 5
# A backend that was slow is asked again after this time, to see whether it still is.
FORGET_S = 60.0
# Of percentiles: how many answers, how old, and how many they need.
MAX_TIMES = 256
TIMES_S = 600.0
MIN_TIMES = 20
# After a failure of which nothing else is known.
REST_S = 1.0
MOST_REST_S = 60.0


@dataclass(slots=True)
class BackendRecord:
    """Of one backend. Units: seconds."""

    num_running: int = 0
    num_answers: int = 0
    num_failures_in_a_row: int = 0
    first_token_s: float | None = None
    resting_until_s: float = 0.0
    failed_at_s: float = -math.inf
    heard_at_s: float = 0.0
    # When, and how long its first token took; at least so long where another one was faster.
    times: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MAX_TIMES))

    def is_slower_than(self, target_s: float) -> bool:
        """Whether it took longer to its first tokens lately."""
        return (
            self.num_answers >= MIN_ANSWERS
            and self.first_token_s is not None
            and self.first_token_s > target_s
        )


class HealthBook:
    """A record for each backend, by name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._records: dict[str, BackendRecord] = {}

    def of(self, name: str) -> BackendRecord:
        """What is known; not to be written to."""
        record = self._records.setdefault(name, BackendRecord())
        if record.num_answers and self._clock.monotonic_s() - record.heard_at_s > FORGET_S:
            record.num_answers, record.first_token_s = 0, None
        return record

    def is_resting(self, name: str) -> bool:
        """Whether it failed, or said that it is busy, a short time ago."""
        return self._clock.monotonic_s() < self.of(name).resting_until_s

    def begin(self, name: str) -> None:
        """An attempt begins."""
        self.of(name).num_running += 1

    def end(self, name: str) -> None:
        """It has ended, in whatever way."""
        self.of(name).num_running -= 1

    def hear(self, name: str, first_token_s: float) -> None:
        """It has begun to answer. Who was asked before a failure says nothing of what followed."""
        record, now_s = self.of(name), self._clock.monotonic_s()
        known = record.first_token_s
        step = 0.0 if known is None else NEWEST_SHARE * (first_token_s - known)
        record.first_token_s = first_token_s if known is None else known + step
        record.num_answers += 1
        if now_s - first_token_s > record.failed_at_s:
            record.num_failures_in_a_row = 0
            record.resting_until_s = 0.0
        record.heard_at_s = now_s
        record.times.append((now_s, first_token_s))

    def note_wait(self, name: str, waited_s: float) -> None:
        """It had not begun after that time, and nobody waits any more."""
        self.of(name).times.append((self._clock.monotonic_s(), waited_s))

    def first_token_s(self, name: str, percentile: float) -> float | None:
        """A percentile of its times to a first token lately; None where too few are known."""
        oldest_s = self._clock.monotonic_s() - TIMES_S
        known = sorted(spent_s for at_s, spent_s in self.of(name).times if at_s >= oldest_s)
        if len(known) < MIN_TIMES:
            return None
        return known[math.ceil(percentile / 100 * len(known)) - 1]

    def fail(self, name: str, error: Exception) -> None:
        """It failed, or is full. Who would not wait says nothing of it."""
        if isinstance(error, CapacityError) and error.is_impatience:
            return
        record = self.of(name)
        record.num_failures_in_a_row += 1
        wait_s = _asked_for(error)
        if wait_s is None:
            wait_s = REST_S * 2.0 ** min(record.num_failures_in_a_row - 1, 10)
        record.failed_at_s = self._clock.monotonic_s()
        until_s = record.failed_at_s + min(wait_s, MOST_REST_S)
        record.resting_until_s = max(record.resting_until_s, until_s)


def _asked_for(error: Exception) -> float | None:
    """How long it wants to be left alone, where it says so."""
    if isinstance(error, UpstreamError):
        return error.retry_after_s
    if isinstance(error, CapacityError):
        return error.retry_after_s
    return None if isinstance(error, BackendError) else 0.0
