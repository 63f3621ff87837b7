"""CircuitBreaker: stops asking a server that fails, and finds out with one request that it is back.

In: how requests ended, and the time. Out: whether another one may be sent, and when that is known.
Failures are those of the server: a refused request is none. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from typing import Literal

from headrace.core.clock import Clock

BreakerState = Literal["closed", "open", "half-open"]
# A probe is the one request that finds out.
Permit = Literal["usual", "probe"]


class CircuitBreaker:
    """Closed until `max_failures` in a row; open for `cooldown_s`; then one request decides.

    Whoever gets a permit from `admit` says one of `begin_answer`, `fail` and `give_up`; after the
    first of them `succeed` or `fail` when the answer has ended. Others may wait for that: a probe
    that has shown nothing for `cooldown_s` is no longer the only one.
    """

    def __init__(self, max_failures: int, cooldown_s: float, clock: Clock) -> None:
        self._max_failures, self._cooldown_s, self._clock = max_failures, cooldown_s, clock
        self._num_failures = 0
        self._open_until_s: float | None = None
        self._probing_since_s: float | None = None
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def state(self) -> BreakerState:
        if self._open_until_s is None:
            return "closed"
        return "open" if self._clock.monotonic_s() < self._open_until_s else "half-open"

    @property
    def can_admit(self) -> bool:
        """Whether a request would be let through now."""
        state = self.state
        return state == "closed" or (state == "half-open" and not self.is_probing)

    @property
    def is_probing(self) -> bool:
        """Whether a request is finding out; not one that has been at it for too long."""
        return self.probing_for_s > 0

    @property
    def probing_for_s(self) -> float:
        """Seconds for which others wait for the probe at most; 0 without one."""
        if self._probing_since_s is None:
            return 0.0
        return max(0.0, self._probing_since_s + self._cooldown_s - self._clock.monotonic_s())

    @property
    def num_waiting(self) -> int:
        """Requests that wait for what a probe finds."""
        return len(self._waiting)

    async def wait_for_probe(self, timeout_s: float) -> None:
        """Return when a probe has found something, or after the time."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await asyncio.wait((future,), timeout=timeout_s)
        finally:
            self._waiting.remove(future)

    @property
    def open_for_s(self) -> float:
        """Seconds until a request may find out; 0 when one may be sent."""
        if self._open_until_s is None:
            return 0.0
        return max(0.0, self._open_until_s - self._clock.monotonic_s())

    def admit(self) -> Permit | None:
        """Let a request through, or not. Half-open, one at a time."""
        if self.state == "closed":
            return "usual"
        if not self.can_admit:
            return None
        self._probing_since_s = self._clock.monotonic_s()
        return "probe"

    def begin_answer(self) -> None:
        """The server has begun to answer: others may ask. Failures count on until one is whole."""
        self._open_until_s = None
        self._end_probe()

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
            self._end_probe()

    def give_up(self, permit: Permit) -> None:
        """The request ended before the server could show anything: another one may find out."""
        if permit == "probe":
            self._end_probe()

    def _end_probe(self) -> None:
        self._probing_since_s = None
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
