"""Scores that models give, for all answers that lack one.

In: workload and journal, an open encoder or judge. Out: scores in the journal. Each text is scored
once, also when several tiers gave it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import NamedTuple

from headrace.planner.journal import Journal
from headrace.planner.judge import Comparison, Scorer, beside_reference, compare
from headrace.planner.profile import cut_answer
from headrace.planner.quality import pick
from headrace.planner.workload import Sample, Task, Tier, Workload


class _Missing(NamedTuple):
    task: str
    model: str
    comparison: Comparison


def missing_scores(workload: Workload, journal: Journal) -> Mapping[str, int]:
    """Models that have something left to score, and how many texts or pairs."""
    return Counter(missing.model for missing in _missing(workload, journal))


async def score_answers(
    workload: Workload,
    journal: Journal,
    model: str,
    scorer: Scorer,
    on_score: Callable[[], None] = lambda: None,
) -> None:
    """Score what one model is to score. Mutates: journal. Raises: BackendError."""
    kept_under = workload.scorer(model)
    for missing in _missing(workload, journal):
        if missing.model == model:
            value = await compare(scorer, missing.comparison)
            journal.add_score(missing.task, kept_under, missing.comparison.key, value)
            on_score()


def comparison_of_tiers(
    workload: Workload, journal: Journal, task: Task, pair: tuple[str, str], sample: Sample
) -> Comparison | None:
    """Two tiers' answers for a judge. None: one is missing, or they are the same."""
    first, second = (_text(journal, task, workload.tiers[name], sample) for name in pair)
    if task.judge is None or first is None or second is None or first == second:
        return None
    return Comparison((first, second), task.call.prompt.render(sample.fields), task.judge.question)


def _text(journal: Journal, task: Task, tier: Tier, sample: Sample) -> str | None:
    answer = journal.find(task.call, tier, sample)
    return None if answer is None or answer.error is not None else answer.text


def _missing(workload: Workload, journal: Journal) -> list[_Missing]:
    """Without those that the journal has, each once."""
    found = dict.fromkeys((*_of_metrics(workload, journal), *_of_judges(workload, journal)))
    return [
        missing
        for missing in found
        if journal.score(missing.task, workload.scorer(missing.model), missing.comparison.key)
        is None
    ]


def _of_metrics(workload: Workload, journal: Journal) -> Iterator[_Missing]:
    real = [tier for tier in workload.tiers.values() if tier.stands_in is None]
    for call in workload.calls:
        for name, path in call.outputs.items():
            task = workload.tasks[name]
            if task.metric.kind not in ("similarity", "judge"):
                continue
            for tier, sample in product(real, call.samples):
                whole = journal.find(call, tier, sample)
                if whole is None or whole.error is not None:
                    continue
                shorter = () if call.is_merged else task.shorter
                for answer in (whole, *(cut_answer(whole, limit) for limit in shorter)):
                    text = None if answer is None else pick(answer.text, path)
                    if text is not None:
                        asked = beside_reference(task, sample, text)
                        yield _Missing(name, task.metric.model, asked)


def _of_judges(workload: Workload, journal: Journal) -> Iterator[_Missing]:
    for task in workload.tasks.values():
        for pair in workload.compared_tiers if task.judge is not None else ():
            for sample in task.call.samples:
                comparison = comparison_of_tiers(workload, journal, task, pair, sample)
                if comparison is not None and task.judge is not None:
                    yield _Missing(task.name, task.judge.tier, comparison)
