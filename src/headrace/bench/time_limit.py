"""TimeLimit: what of a measurement there is still time for, what was spared, what failed.

In: how long all of it may take, how many cases there are. Out: whether a case is run again, or at
all. Where a machine is slow, repeats go first, then cases. Units: seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class TimeLimit:
    """Begins when it is made. Without `limit_s` there is time for everything."""

    limit_s: float = math.inf
    num_cases: int = 1
    now_s: Callable[[], float] = time.monotonic
    num_done: int = 0
    num_once: int = 0
    num_old_roofs: int = 0
    left_out: list[str] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)
    _begin_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._begin_s = self.now_s()

    def has_time_for(self, more_s: float) -> bool:
        """Whether that still fits in."""
        return self.now_s() - self._begin_s + more_s <= self.limit_s

    def is_ahead_by(self, more_s: float) -> bool:
        """Whether the case in progress may take so much more without taking it from others."""
        share = min(1.0, (self.num_done + 1) / self.num_cases)
        return self.now_s() - self._begin_s + more_s <= self.limit_s * share

    def may_repeat(self, more_s: float) -> bool:
        """Whether the case in progress is run again. The first is wherever it fits in: everything
        is compared with it, and nothing else has warmed the machine before it.
        """
        return self.is_ahead_by(more_s) or (self.num_done == 0 and self.has_time_for(more_s))

    def count(self, num_runs: int) -> None:
        """A case was run so often."""
        self.num_done += 1
        self.num_once += num_runs == 1

    def notes(self) -> Iterator[str]:
        """What was spared, and what could not be timed; none where nothing was."""
        spared = []
        if self.num_once:
            count = f"{self.num_once} of {self.num_done} cases ran once in place of twice"
            spared.append(f"{count}, so a slow moment of the machine may be in them")
        if self.num_old_roofs:
            spared.append(f"beside the roof of an earlier engine: {self.num_old_roofs} of them")
        if self.left_out:
            spared.append(f"left out: {', '.join(self.left_out)}")
        if spared:
            said = "; ".join(spared)
            yield f"To be done in {self.limit_s:g} s here: {said}. --rounds 1 runs all of it."
        if self.apart:
            yield f"Not timed, for the answers never ran at the same time: {', '.join(self.apart)}."
