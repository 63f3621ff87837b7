"""A measured step beside what this machine could do at best, and what a factor is worth.

In: what a step moves and computes, how long it took, the roof of the same minute. Out: Points with
the time that reading and multiplying take at least, and Factors: the same work with one thing
changed. Units: seconds, bytes, operations (a multiply-add is 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any, Literal

from headrace.core.frozen import frozen
from headrace.core.machine import Roof
from headrace.engine.build import WorkPerToken

Bound = Literal["memory", "arithmetic"]
# Below this share of the roof neither reading nor multiplying explains a step.
NEAR = 0.5


@frozen(kw_only=True)
class Load:
    """What a step had in it. `kv_bytes` are keys and values that its rows look back on."""

    num_streams: int
    num_rows: int
    num_heads: int
    context_tokens: int
    kv_bytes: float


@frozen(kw_only=True)
class Point:
    """A step that was measured, or of guesses a token: a step then gives several.

    Beside the roof stand steps alone. `spread` is the slowest run of the case over the fastest.
    """

    name: str
    load: Load
    is_step: bool = True
    step_s: float
    tokens_per_s: float
    roof: Roof
    work: WorkPerToken
    spread: float = 1.0

    @property
    def memory_s(self) -> float:
        """What reading weights, keys and values takes at the bandwidth of that minute."""
        return (self.work.stream_bytes + self.load.kv_bytes) / self.roof.read_bytes_per_s

    @property
    def arithmetic_s(self) -> float:
        """What multiplying takes at the int8 peak of that minute."""
        work, load = self.work, self.load
        multiplied = work.body_weights * load.num_rows + work.head_weights * load.num_heads
        return 2 * multiplied / self.roof.int8_ops_per_s

    @property
    def bound(self) -> Bound:
        """What takes longer at the roof."""
        return "memory" if self.memory_s >= self.arithmetic_s else "arithmetic"

    @property
    def share(self) -> float:
        """Of the roof that was reached; above 1 the probe met a slower moment."""
        return max(self.memory_s, self.arithmetic_s) / self.step_s

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "name": self.name,
            **asdict(self.load),
            "step_s": self.step_s,
            "tokens_per_s": self.tokens_per_s,
            "is_step": self.is_step,
            "memory_s": self.memory_s,
            "arithmetic_s": self.arithmetic_s,
            "bound": self.bound,
            "share_of_roof": self.share,
            "spread": self.spread,
            "roof": asdict(self.roof),
        }


@frozen(kw_only=True)
class Sweep:
    """The same work with one thing changed: names of points, and how people call each."""

    factor: str
    names: tuple[str, ...]
    labels: tuple[str, ...]
    is_for_one: bool = True


@frozen(kw_only=True)
class Factor:
    """What a sweep showed. `times` is the best over the worst of its tokens per second."""

    factor: str
    is_for_one: bool
    worst: str
    worst_tokens_per_s: float
    best: str
    best_tokens_per_s: float

    @property
    def times(self) -> float:
        return self.best_tokens_per_s / self.worst_tokens_per_s

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "times": self.times}


def middle(points: Sequence[Point]) -> Point:
    """Of the same step in several rounds, the one whose share of its own roof is the median."""
    shares = sorted(points, key=lambda point: point.share)
    wanted = median(point.share for point in points)
    return min(shares, key=lambda point: abs(point.share - wanted))


def spread(points: Sequence[Point]) -> float:
    """The slowest run of a step over the fastest, in all rounds."""
    return max(each.step_s * each.spread for each in points) / min(each.step_s for each in points)


def factors(sweeps: Sequence[Sweep], points: Mapping[str, Point]) -> list[Factor]:
    """The largest effect first. A sweep of fewer than two points that exist is left out."""
    found = []
    for sweep in sweeps:
        speeds = [
            (points[name].tokens_per_s, label)
            for name, label in zip(sweep.names, sweep.labels, strict=True)
            if name in points
        ]
        if len(speeds) < 2:
            continue
        (slow, worst), (fast, best) = min(speeds), max(speeds)
        found.append(
            Factor(
                factor=sweep.factor,
                is_for_one=sweep.is_for_one,
                worst=worst,
                worst_tokens_per_s=slow,
                best=best,
                best_tokens_per_s=fast,
            )
        )
    return sorted(found, key=lambda factor: factor.times, reverse=True)
