"""Agreement of a judge with the metric that decides: whether both prefer the same tier's answers.

In: a profile whose pairs a judge has compared in both orders. Out: for each task and pair of tiers
how often the judge kept its verdict when the order changed, whom it prefers, and how often it and
the metric prefer the same answer, with intervals. Decides nothing: floors are the metric's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.planner.interval import Interval, interval
from headrace.planner.judge import TIE, WIN
from headrace.planner.profile import Profile
from headrace.planner.scoring import comparison_of_tiers
from headrace.planner.workload import Sample, Task

# Scores nearer than this are the same one.
_SAME = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """A judge beside a metric, on pairs of different answers to the same samples.

    `steady` is the share of pairs whose verdict did not change with the order; `preference` the
    mean of 1 for `other`, 0 for `baseline`, 0.5 for none. `agrees` is over the `num_told_apart`
    pairs that judge and metric both tell apart; None where there are none.
    """

    task: str
    judge: str
    baseline: str
    other: str
    steady: Interval
    preference: Interval
    num_told_apart: int
    agrees: Interval | None


def agreements(profile: Profile) -> Iterator[Agreement]:
    """Of each task with a judge, and each pair of tiers that it has compared."""
    workload = profile.workload
    for task in workload.tasks.values():
        for pair in workload.compared_tiers if task.judge is not None else ():
            found = [
                each for sample in task.call.samples for each in _of(profile, task, pair, sample)
            ]
            if found and task.judge is not None:
                yield _agreement(task, task.judge.tier, pair, found, workload.confidence)


def _of(
    profile: Profile, task: Task, pair: tuple[str, str], sample: Sample
) -> Iterator[tuple[float, float]]:
    """The judge's preference for the baseline, and by how much its metric is better."""
    workload, journal = profile.workload, profile.journal
    comparison = comparison_of_tiers(workload, journal, task, pair, sample)
    if comparison is None or task.judge is None:
        return
    verdict = journal.score(task.name, workload.scorer(task.judge.tier), comparison.key)
    metric = profile.metrics[task.name]
    if verdict is not None:
        scores = [
            float(metric.combine(np.array(metric.row(sample, text)))) for text in comparison.texts
        ]
        yield verdict, scores[0] - scores[1]


def _agreement(
    task: Task,
    judge: str,
    pair: tuple[str, str],
    found: Sequence[tuple[float, float]],
    confidence: float,
) -> Agreement:
    told_apart = [
        float((verdict == WIN) == (better > 0))
        for verdict, better in found
        if verdict != TIE and abs(better) > _SAME
    ]
    return Agreement(
        task=task.name,
        judge=judge,
        baseline=pair[0],
        other=pair[1],
        steady=_share([float(verdict != TIE) for verdict, _ in found], confidence),
        preference=_share([1 - verdict for verdict, _ in found], confidence),
        num_told_apart=len(told_apart),
        agrees=_share(told_apart, confidence) if told_apart else None,
    )


def _share(values: Sequence[float], confidence: float) -> Interval:
    rows = np.array([(value, 1.0) for value in values])
    return interval(rows, lambda sums: np.asarray(sums[..., 0] / sums[..., 1]), confidence)
