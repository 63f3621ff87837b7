"""Measured: what a call did on a tier: tokens, times, scores, all from the journal.

In: workload and journal. Out: a Measured for each call and tier that has answers, also as it would
be with a smaller max_tokens: a greedy answer that is cut is the beginning of the longer one. Asks
no model. Units: seconds, tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from headrace.core.frozen import frozen
from headrace.core.usage import Usage
from headrace.economics.machine_price import MachineWork, ServedCall, measure_work
from headrace.planner.interval import Rows
from headrace.planner.journal import Answer, Journal
from headrace.planner.judge import GivenScore
from headrace.planner.quality import METRICS, TaskMetric, pick
from headrace.planner.workload import Call, Sample, Task, Tier, Workload


@frozen
class Measured:
    """A call on a tier. `rows` holds those of each task's metric, a sample in the same place.

    `samples` are in the order of the data, failed ones too. `num_cut` answers reached max_tokens.
    """

    call: str
    tier: str
    max_tokens: int
    samples: tuple[str, ...]
    usages: tuple[Usage, ...]
    ttft_s: tuple[float, ...]
    e2e_s: tuple[float, ...]
    rows: Mapping[str, Rows]
    num_cut: int
    concurrency: int

    @property
    def mean_input(self) -> float:
        return sum(usage.input_tokens for usage in self.usages) / len(self.usages)

    @property
    def mean_output(self) -> float:
        return sum(usage.output_tokens for usage in self.usages) / len(self.usages)


class Profile:
    """Everything that was measured of a workload."""

    def __init__(self, workload: Workload, journal: Journal) -> None:
        self.workload, self.journal = workload, journal
        self.metrics = {
            task.name: make_metric(task, workload, journal) for task in workload.tasks.values()
        }
        self._measured: dict[tuple[str, str, int], Measured | None] = {}
        self._answered: dict[tuple[str, str], list[tuple[Sample, Answer]]] = {}

    def find(self, call: Call, tier: Tier, max_tokens: int | None = None) -> Measured | None:
        """None: it was not asked, or what was asked lacks what this needs."""
        limit = call.max_tokens if max_tokens is None else max_tokens
        key = (call.name, tier.measured_on, limit)
        if key not in self._measured:
            self._measured[key] = self._measure(call, tier, limit)
        return self._measured[key]

    def num_failed(self, call: Call, tier: Tier) -> int:
        """Requests that brought no answer, also where none did."""
        return sum(answer.error is not None for _, answer in self._answers(call, tier))

    def work(self, tier: Tier) -> MachineWork | None:
        """What an engine computed over all calls that it answered; None: too little."""
        # Tasks with equal requests share their answers.
        answers = {
            answer.key: answer
            for call in self.workload.calls
            for _, answer in self._answers(call, tier)
        }
        calls = [
            ServedCall(
                answer.answered_unix_s - answer.prefill_s - answer.decode_s,
                0.0,
                answer.prefill_s,
                answer.decode_s,
                answer.usage.input_tokens - answer.usage.cached_input_tokens,
                answer.usage.output_tokens,
                answer.prefill_compute_s,
                answer.decode_compute_s,
            )
            for answer in answers.values()
            if answer.error is None
        ]
        if not calls:
            return None
        begin_s = min(call.accepted_at_s for call in calls)
        end_s = max(call.accepted_at_s + call.prefill_s + call.decode_s for call in calls)
        return measure_work(calls, begin_s, end_s)

    def _answers(self, call: Call, tier: Tier) -> list[tuple[Sample, Answer]]:
        key = call.name, tier.measured_on
        if key not in self._answered:
            real = self.workload.tiers[tier.measured_on]
            found = ((sample, self.journal.find(call, real, sample)) for sample in call.samples)
            self._answered[key] = [
                (sample, answer) for sample, answer in found if answer is not None
            ]
        return self._answered[key]

    def _measure(self, call: Call, tier: Tier, limit: int) -> Measured | None:
        pairs = self._answers(call, tier)
        if limit < call.max_tokens:
            cut = [(sample, cut_answer(answer, limit)) for sample, answer in pairs]
            pairs = [(sample, answer) for sample, answer in cut if answer is not None]
            if len(pairs) < len(cut):
                return None
        if not any(answer.error is None for _, answer in pairs):
            return None
        rows: dict[str, Rows] = {}
        for task, path in call.outputs.items():
            found = self._rows(task, path, pairs)
            if found is not None:
                rows[task] = found
        return _collect(call, tier.measured_on, limit, pairs, rows)

    def _rows(self, task: str, path: str, pairs: Sequence[tuple[Sample, Answer]]) -> Rows | None:
        metric = self.metrics[task]
        rows = []
        for sample, answer in pairs:
            text = None if answer.error is not None else pick(answer.text, path)
            if text is None:
                rows.append(metric.failed(sample))
            elif isinstance(metric, GivenScore) and not metric.has(sample, text):
                return None
            else:
                rows.append(metric.row(sample, text))
        return np.array(rows, dtype=np.float64)


def make_metric(task: Task, workload: Workload, journal: Journal) -> TaskMetric:
    """Where a model scores, what it gave."""
    metric = task.metric
    if metric.kind in ("similarity", "judge"):
        return GivenScore(task, workload.scorer(metric.model), journal)
    return METRICS[metric.kind](metric)


def cut_answer(answer: Answer, limit: int) -> Answer | None:
    """The same answer with a smaller max_tokens; None where it is not known token by token."""
    count = answer.usage.output_tokens
    if answer.error is not None or count <= limit:
        return answer
    kept = [chars for tokens, chars in answer.marks if tokens <= limit]
    if len(answer.marks) < count // 2 or not kept:
        return None
    share = (limit - 1) / max(1, count - 1)
    return replace(
        answer,
        text=answer.text[: kept[-1]],
        usage=replace(
            answer.usage,
            output_tokens=limit,
            reasoning_tokens=min(answer.usage.reasoning_tokens, limit),
        ),
        e2e_s=answer.ttft_s + (answer.e2e_s - answer.ttft_s) * share,
        decode_s=answer.decode_s * share,
        finish_reason="length",
    )


def _collect(
    call: Call,
    tier: str,
    limit: int,
    pairs: Sequence[tuple[Sample, Answer]],
    rows: Mapping[str, Rows],
) -> Measured:
    done = [answer for _, answer in pairs if answer.error is None]
    return Measured(
        call=call.name,
        tier=tier,
        max_tokens=limit,
        samples=tuple(sample.id for sample, _ in pairs),
        usages=tuple(answer.usage for answer in done),
        ttft_s=tuple(answer.ttft_s for answer in done),
        e2e_s=tuple(answer.e2e_s for answer in done),
        rows=rows,
        num_cut=sum(answer.finish_reason == "length" for answer in done),
        concurrency=max(answer.concurrency for answer in done),
    )
