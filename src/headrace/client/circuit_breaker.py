"""CircuitBreaker: stops asking a server that fails, and finds out with one request that it is back.

In: how requests ended, and the time. Out: whether another one may be sent. Failures are those of
the server: a refused request is none.
"""

from __future__ import annotations

from typing import Literal

from headrace.core.clock import Clock

BreakerState = Literal["closed", "open", "half-open"]
# A probe is the one request that finds out.
Permit = Literal["usual", "probe"]


class CircuitBreaker:
    """Closed until `max_failures` in a row; open for `cooldown_s`; then one request decides.

    Whoever gets a permit from `admit` says one of `begin_answer`, `fail` and `give_up`; after the
    first of them `succeed` or `fail` when the answer has ended.
    """

    def __init__(self, max_failures: int, cooldown_s: float, clock: Clock) -> None:
        self._max_failures, self._cooldown_s, self._clock = max_failures, cooldown_s, clock
        self._num_failures = 0
        self._open_until_s: float | None = None
        self._is_probing = False

    @property
    def state(self) -> BreakerState:
        if self._open_until_s is None:
            return "closed"
        return "open" if self._clock.monotonic_s() < self._open_until_s else "half-open"

    @property
    def can_admit(self) -> bool:
        """Whether a request would be let through now."""
        state = self.state
        return state == "closed" or (state == "half-open" and not self._is_probing)

    @property
    def open_for_s(self) -> float:
        """Seconds until a request may find out; 0 when one may be sent."""
        if self._open_until_s is None:
            return 0.0
        return max(0.0, self._open_until_s - self._clock.monotonic_s())

    def admit(self) -> Permit | None:
        """Let a request through, or not. Half-open, the first one alone."""
        if self.state == "closed":
            return "usual"
        if not self.can_admit:
            return None
        self._is_probing = True
        return "probe"

    def begin_answer(self) -> None:
        """The server has begun to answer: others may ask. Failures count on until one is whole."""
        self._open_until_s, self._is_probing = None, False

    def succeed(self) -> None:
        """The server answered."""
        self._num_failures = 0
        self.begin_answer()

    def fail(self) -> None:
        """The server failed."""
        self._num_failures += 1
        # One that was sent before it opened says nothing new; a probe does.
        if self._num_failures >= self._max_failures and self.state != "open":
            self._open_until_s = self._clock.monotonic_s() + self._cooldown_s
            self._is_probing = False

    def give_up(self, permit: Permit) -> None:
        """The request ended before the server could show anything: another one may find out."""
        if permit == "probe":
            self._is_probing = False
