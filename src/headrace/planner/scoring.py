"""Scores that models give, for all answers that lack one.

In: workload and journal, an open Backend of the encoder or judge. Out: scores in the journal. Each
text is scored once, also when several tiers gave it.
"""

from __future__ import annotations

from collections.abc import Iterator

from headrace.core.backend import Backend
from headrace.planner.journal import Journal
from headrace.planner.judge import GivenScore, pair_text, score_preference, score_similarity
from headrace.planner.profile import output_of
from headrace.planner.workload import Sample, Task, Workload


def missing_scores(workload: Workload, journal: Journal) -> list[str]:
    """Names of the models that have something left to score."""
    return sorted({task.metric.model for task, _, _ in _missing(workload, journal)})


async def score_answers(workload: Workload, journal: Journal, model: str, backend: Backend) -> None:
    """Score what one model is to score. Mutates: journal."""
    for task, sample, text in _missing(workload, journal):
        if task.metric.model != model:
            continue
        key = pair_text(task.metric, sample, text)
        if journal.score(task.name, model, key) is not None:
            continue
        if task.metric.kind == "judge":
            value = await score_preference(backend, task, sample, text)
        else:
            value = await score_similarity(backend, task.metric, sample, text)
        journal.add_score(task.name, model, key, value)


def _missing(workload: Workload, journal: Journal) -> Iterator[tuple[Task, Sample, str]]:
    for call in workload.calls:
        for name, path in call.outputs.items():
            task = workload.tasks[name]
            if task.metric.kind not in ("similarity", "judge"):
                continue
            metric = GivenScore(name, task.metric, journal)
            for tier in workload.tiers.values():
                if tier.stands_in is not None:
                    continue
                for sample in call.samples:
                    answer = journal.find(call, tier, sample)
                    text = None if answer is None or answer.error else output_of(answer.text, path)
                    if text is not None and not metric.has(sample, text):
                        yield task, sample, text
