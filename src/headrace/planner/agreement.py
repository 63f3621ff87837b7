"""Agreement of a judge with the metric that decides: whether both prefer the same tier's answers.

In: a profile whose pairs a judge has compared in both orders. Out: for each task and pair of tiers
how often the judge kept its verdict when the order changed, whom it prefers, and how often it and
the metric prefer the same answer, with intervals. Decides nothing: floors are the metric's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from headrace.core.frozen import frozen
from headrace.planner.interval import Interval, drawn_together, interval
from headrace.planner.judge import TIE, WIN
from headrace.planner.profile import Profile
from headrace.planner.scoring import comparison_of_tiers
from headrace.planner.workload import Sample, Task

# Scores nearer than this are the same one.
_SAME = 1e-9


@frozen(kw_only=True)
class Agreement:
    """A judge beside a metric, on pairs of different answers to the same prompts.

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


class _Compared(NamedTuple):
    """The judge's preference for the baseline; by how much its metric is better; which prompt."""

    verdict: float
    better: float
    prompt: str


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


def _of(profile: Profile, task: Task, pair: tuple[str, str], sample: Sample) -> Iterator[_Compared]:
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
        yield _Compared(verdict, scores[0] - scores[1], task.call.first_alike(sample.id))


def _agreement(
    task: Task,
    judge: str,
    pair: tuple[str, str],
    found: Sequence[_Compared],
    confidence: float,
) -> Agreement:
    told_apart = [each for each in found if each.verdict != TIE and abs(each.better) > _SAME]

    def share(of: Callable[[_Compared], float], among: Sequence[_Compared]) -> Interval:
        rows = drawn_together(
            np.array([(of(each), 1.0) for each in among]), [each.prompt for each in among]
        )
        return interval(rows, lambda sums: np.asarray(sums[..., 0] / sums[..., 1]), confidence)

    return Agreement(
        task=task.name,
        judge=judge,
        baseline=pair[0],
        other=pair[1],
        steady=share(lambda each: each.verdict != TIE, found),
        preference=share(lambda each: 1 - each.verdict, found),
        num_told_apart=len({each.prompt for each in told_apart}),
        agrees=share(lambda each: (each.verdict == WIN) == (each.better > 0), told_apart)
        if told_apart
        else None,
    )
