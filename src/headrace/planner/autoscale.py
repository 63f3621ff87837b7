"""The scaling decision: how many replicas there should be. Pure: numbers in, a number out.

In: a rule, what is in flight now, how long less was enough. Out: a count of replicas. The
simulation asks it as a cluster would: up at once, down only after some time.
"""

from __future__ import annotations

import math

from headrace.core.frozen import frozen


@frozen
class ScalingRule:
    """Keep about `target_in_flight` requests on each replica.

    A new one serves after `start_s`; one is taken away after `down_after_s` in which fewer would
    have been enough. `least` 0 scales to nothing. Units: seconds.
    """

    least: int = 1
    most: int = 1
    target_in_flight: float = 8.0
    start_s: float = 20.0
    down_after_s: float = 300.0


def wanted_replicas(rule: ScalingRule, in_flight: int) -> int:
    """How many this moment asks for."""
    return max(rule.least, min(rule.most, math.ceil(in_flight / rule.target_in_flight)))


def next_replicas(rule: ScalingRule, now: int, in_flight: int, fewer_enough_s: float) -> int:
    """How many there should be from now on. `fewer_enough_s`: how long fewer were wanted."""
    wanted = wanted_replicas(rule, in_flight)
    if wanted >= now:
        return wanted
    return now - 1 if fewer_enough_s >= rule.down_after_s else now
