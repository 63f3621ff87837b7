"""Sizing: how many replicas of a tier a workload needs, by simulating its calls on each count.

In: workload, profile, a tier whose steps were timed, the peak to serve. Out: for each count of
replicas what callers would see, whether every objective holds, and what it costs. Calls are drawn
from those that were measured, at the tasks' own arrivals. Units: seconds, tokens, dollars.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

import numpy as np

from headrace.core.config import EngineConfig
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.economics.prices import to_nano_usd
from headrace.planner.arrivals import draw_arrivals
from headrace.planner.autoscale import ScalingRule
from headrace.planner.capacity import CallTimes, SimulatedCall, Simulation, simulate
from headrace.planner.profile import Profile
from headrace.planner.workload import DAY_S, LatencyObjective, Tier

PERCENTS = (50, 90, 99)


@frozen
class Demand:
    """What is to be served: `peak` times the mean rate of the day, for `span_s`."""

    peak: float = 3.0
    span_s: float = 3600.0
    seed: int = 0


@frozen
class TaskTimes:
    """What callers of a task would see, at PERCENTS. `tpot_s` is None for answers of one token."""

    task: str
    count: int
    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...] | None
    e2e_s: tuple[float, ...]
    holds: bool | None


@frozen
class Size:
    """A rule and what it gives. `nano_usd` is a day that is all like this; None: no price."""

    rule: ScalingRule
    tasks: tuple[TaskTimes, ...]
    utilization: float
    most_replicas: int
    nano_usd: int | None

    @property
    def holds(self) -> bool:
        return all(task.holds is not False for task in self.tasks)


def draw_calls(
    profile: Profile, tier: Tier, demand: Demand
) -> tuple[list[SimulatedCall], list[str]]:
    """Calls of all tasks in the order of their arrival, and whose each is.

    Raises: ConfigError for a task that was not measured on the tier.
    """
    drawn: list[tuple[SimulatedCall, str]] = []
    for number, task in enumerate(profile.workload.tasks.values()):
        measured = profile.find(task.call, tier)
        if measured is None:
            allowed = "a tier that was asked every task"
            hint = f"{task.name} was not; run `headrace profile WORKLOAD` first."
            raise ConfigError("--tier", tier.name, allowed, hint)
        rate_per_s = demand.peak * task.volume_per_day / DAY_S
        moments = draw_arrivals(task.arrivals, rate_per_s, demand.span_s, demand.seed + number)
        chosen = np.random.default_rng((demand.seed, number)).integers(
            len(measured.usages), size=len(moments)
        )
        for at_s, index in zip(moments, chosen, strict=True):
            usage = measured.usages[index]
            tokens = max(1, usage.input_tokens), max(1, usage.output_tokens)
            call = SimulatedCall(float(at_s), *tokens, usage.cached_input_tokens)
            drawn.append((call, task.name))
    drawn.sort(key=lambda pair: pair[0].arrival_s)
    return [call for call, _ in drawn], [name for _, name in drawn]


def sizes(
    profile: Profile,
    tier: Tier,
    demand: Demand,
    rules: Sequence[ScalingRule],
    usd_per_hour: Decimal | None,
    engine: EngineConfig | None = None,
) -> Iterator[Size]:
    """Each rule in turn, on the same calls. Raises: ConfigError."""
    times = profile.journal.step_times(tier)
    if times is None:
        allowed = "a tier of this engine whose steps were timed"
        hint = "Run `headrace profile WORKLOAD --steps` first."
        raise ConfigError("--tier", tier.name, allowed, hint)
    calls, names = draw_calls(profile, tier, demand)
    if not calls:
        raise ConfigError("--minutes", demand.span_s / 60, "a time in which calls come")
    for rule in rules:
        found = simulate(calls, times, engine, rule)
        yield Size(
            rule=rule,
            tasks=tuple(_task_times(profile, found, names)),
            utilization=found.utilization,
            most_replicas=found.most_replicas,
            nano_usd=_day_nano_usd(found, calls, usd_per_hour),
        )


def _day_nano_usd(
    found: Simulation, calls: Sequence[SimulatedCall], usd_per_hour: Decimal | None
) -> int | None:
    """Paid time over the time that passed, times a day."""
    if usd_per_hour is None:
        return None
    first_s = calls[0].arrival_s
    passed_s = max(
        call.arrival_s + seen.e2e_s for call, seen in zip(calls, found.calls, strict=True)
    )
    replicas = found.paid_s / (passed_s - first_s)
    return round(to_nano_usd(usd_per_hour) * 24 * replicas)


def _task_times(profile: Profile, found: Simulation, names: Sequence[str]) -> Iterator[TaskTimes]:
    for task in profile.workload.tasks.values():
        seen = [call for call, name in zip(found.calls, names, strict=True) if name == task.name]
        if not seen:
            continue
        tpot_s = [call.tpot_s for call in seen if call.tpot_s is not None]
        yield TaskTimes(
            task=task.name,
            count=len(seen),
            ttft_s=_percentiles([call.ttft_s for call in seen]),
            tpot_s=_percentiles(tpot_s) if tpot_s else None,
            e2e_s=_percentiles([call.e2e_s for call in seen]),
            holds=_holds(task.latency, seen),
        )


def _percentiles(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.percentile(values, PERCENTS))


def _holds(objective: LatencyObjective | None, seen: Sequence[CallTimes]) -> bool | None:
    """None: nothing is asked."""
    if objective is None:
        return None
    ttft_s = np.percentile([call.ttft_s for call in seen], objective.percent)
    e2e_s = np.percentile([call.e2e_s for call in seen], objective.percent)
    return objective.holds(float(ttft_s), float(e2e_s))
