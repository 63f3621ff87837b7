"""StallWatch: whether an engine that says nothing still works. Silence: how long it said nothing.

In: time without a message, processor time of the process, sizes and times of steps. Out: a verdict.
A step may be long: one that uses the processor gets several times what a step of the largest size
would take, as measured; one that does not (stopped, dead-locked) gets the timeout. Time is what the
watcher itself saw passing, so a machine that slept, or a watcher that was stopped, is no stall.
"""

from __future__ import annotations

from threading import Lock

from headrace.core.clock import Clock
from headrace.core.step import StepStats

SLACK = 8
"""Times the longest step that is expected; doubled each time it was too little."""
FIRST_STEP_S = 120.0
"""For steps before any has been measured."""
LOAD_S = 600.0
"""For a step that waits until an adapter was read and packed, whatever that takes of a disk."""


class StallWatch:
    """Watches one engine after another. Units: seconds."""

    def __init__(self, stall_timeout_s: float, max_num_batched_tokens: int) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._max_num_tokens = max_num_batched_tokens
        self._slack = SLACK
        self._slowest_s = 0.0
        self._most_tokens = 0
        self._seconds_per_token = 0.0
        self._silent_s = self._idle_s = 0.0
        self._processor_s: float | None = None

    @property
    def longest_step_s(self) -> float:
        """What a step that uses the processor may take."""
        if not self._most_tokens:
            return max(FIRST_STEP_S, self._stall_timeout_s)
        expected_s = max(self._slowest_s, self._seconds_per_token * self._max_num_tokens)
        return max(self._slack * expected_s, self._stall_timeout_s)

    def observe(self, stats: StepStats) -> None:
        """Learn from a step how long one takes."""
        self._slowest_s = max(self._slowest_s, stats.step_s)
        if stats.num_scheduled_tokens and stats.num_scheduled_tokens >= self._most_tokens:
            self._most_tokens = stats.num_scheduled_tokens
            self._seconds_per_token = stats.step_s / stats.num_scheduled_tokens

    def moved(self) -> None:
        """Something came, or nothing is wanted."""
        self._silent_s = self._idle_s = 0.0

    def is_stalled(
        self, waited_s: float, processor_s: float | None, *, is_loading: bool = False
    ) -> bool:
        """Judge after another `waited_s` without a message.

        `processor_s` is the process's own clock, None when there is none. `is_loading`: an adapter
        is, and steps wait for it.
        """
        self._silent_s += waited_s
        is_working = processor_s is None or processor_s != self._processor_s
        self._idle_s = 0.0 if is_working else self._idle_s + waited_s
        self._processor_s = processor_s
        if self._idle_s >= self._stall_timeout_s:
            return True
        if self._silent_s < max(self.longest_step_s, LOAD_S if is_loading else 0.0):
            return False
        self._slack *= 2
        return True


class Silence:
    """Time without a reply, as those who looked saw it pass. Any thread may look. Units: seconds.

    A look counts the time since the last one, `longest_look_s` at most: when nobody looked for
    longer, the machine may have slept, and all of it counts as little as that. Who waits for twice
    that to pass and looks rarely sees it at the third look.
    """

    def __init__(self, clock: Clock, longest_look_s: float) -> None:
        self._clock, self._longest_look_s = clock, longest_look_s
        self._lock = Lock()
        self.end()

    def end(self) -> None:
        """Something came, or nothing is wanted."""
        with self._lock:
            self._looked_at_s = self._clock.monotonic_s()
            self._seen_s = 0.0

    def seen_s(self) -> float:
        """Look."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            self._seen_s += min(now_s - self._looked_at_s, self._longest_look_s)
            self._looked_at_s = now_s
            return self._seen_s
