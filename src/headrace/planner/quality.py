"""Task metrics: an answer and a sample to a row of numbers, rows to a score from 0 to 1.

The seam for metrics: one class each, and a line in METRICS. Rows are summed over samples and
the sums combined, so that a metric that is no mean (F1 over labels) has intervals like the others.
Metrics that ask a model are in `judge`. Knows no tier and no price.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from headrace.planner.interval import Rows
from headrace.planner.overlap import normalized, rouge_l, set_f1, word_f1
from headrace.planner.prompt_template import MissingField, as_text, look_up
from headrace.planner.workload import FieldMatch, Metric, Sample

_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)


class TaskMetric(Protocol):
    """Scores answers of one task."""

    num_columns: int

    def row(self, sample: Sample, answer: str) -> tuple[float, ...]:
        """What one answer adds to the sums."""
        ...

    def failed(self, sample: Sample) -> tuple[float, ...]:
        """The same of an answer that never came: as bad as can be."""
        ...

    def combine(self, sums: Rows) -> Rows:
        """Scores of sums. Shapes: sums [..., num_columns] -> [...]."""
        ...


class MeanMetric(ABC):
    """The mean of a score per answer."""

    num_columns = 2

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def row(self, sample: Sample, answer: str) -> tuple[float, ...]:
        """See TaskMetric."""
        return (self.score(sample, answer), 1.0)

    def failed(self, sample: Sample) -> tuple[float, ...]:
        """See TaskMetric."""
        return (0.0, 1.0)

    def combine(self, sums: Rows) -> Rows:
        """See TaskMetric."""
        return np.asarray(sums[..., 0] / sums[..., 1])

    @abstractmethod
    def score(self, sample: Sample, answer: str) -> float:
        """Of one answer."""


class ExactMatch(MeanMetric):
    """1 where words are the same, whatever their case and punctuation."""

    def score(self, sample: Sample, answer: str) -> float:
        """See MeanMetric."""
        text, reference = _both(self._metric, sample, answer)
        return float(text is not None and normalized(text) == normalized(reference))


class RougeL(MeanMetric):
    """Overlap with the reference in words and their order."""

    def score(self, sample: Sample, answer: str) -> float:
        """See MeanMetric."""
        text, reference = _both(self._metric, sample, answer)
        return 0.0 if text is None else rouge_l(text, reference)


class Contains(MeanMetric):
    """The share of the reference's phrases that an answer has, inflected at their end or not."""

    def score(self, sample: Sample, answer: str) -> float:
        """See MeanMetric."""
        text = pick(answer, self._metric.answer_field)
        wanted = [
            normalized(part) for part in phrases(look_up(sample.fields, self._metric.reference))
        ]
        if text is None or not wanted:
            return 0.0
        said = f" {normalized(text)} "
        return sum(_is_said(part, said) for part in wanted) / len(wanted)


class JsonFields(MeanMetric):
    """0 for what is no JSON object, else the mean over fields of how well each one matches."""

    def score(self, sample: Sample, answer: str) -> float:
        """See MeanMetric."""
        try:
            found = look_up(read_json(answer), self._metric.answer_field)
        except (ValueError, MissingField):
            return 0.0
        reference = look_up(sample.fields, self._metric.reference)
        if not isinstance(found, dict):
            return 0.0
        matches = [
            _match(found.get(name), _reference_of(reference, name, kind), kind)
            for name, kind in self._metric.fields.items()
        ]
        return sum(matches) / len(matches)


class LabelF1:
    """Macro F1: the mean over labels that occur of the F1 of each, so that rare ones count.

    Columns: for each label hits, times predicted, times true.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._index = {normalized(label): i for i, label in enumerate(metric.labels)}
        self.num_columns = 3 * len(metric.labels)

    def row(self, sample: Sample, answer: str) -> tuple[float, ...]:
        """See TaskMetric."""
        text = pick(answer, self._metric.answer_field)
        return self._row(sample, None if text is None else self._index.get(normalized(text)))

    def failed(self, sample: Sample) -> tuple[float, ...]:
        """See TaskMetric."""
        return self._row(sample, None)

    def _row(self, sample: Sample, predicted: int | None) -> tuple[float, ...]:
        row = np.zeros((len(self._metric.labels), 3))
        reference = as_text(look_up(sample.fields, self._metric.reference))
        true = self._index.get(normalized(reference))
        if predicted is not None:
            row[predicted, 1] = 1
            row[predicted, 0] = predicted == true
        if true is not None:
            row[true, 2] = 1
        return tuple(row.ravel().tolist())

    def combine(self, sums: Rows) -> Rows:
        """See TaskMetric."""
        table = sums.reshape(*sums.shape[:-1], -1, 3)
        hits, total = table[..., 0], table[..., 1] + table[..., 2]
        f1 = np.divide(2 * hits, total, out=np.zeros_like(hits), where=total > 0)
        occurs = np.maximum((total > 0).sum(axis=-1), 1)
        return np.asarray(f1.sum(axis=-1) / occurs)


METRICS: Mapping[str, Callable[[Metric], TaskMetric]] = {
    "exact": ExactMatch,
    "label_f1": LabelF1,
    "contains": Contains,
    "json_fields": JsonFields,
    "rouge_l": RougeL,
}


def read_json(answer: str) -> Any:
    """The value of an answer; a fence of code around it is forgiven. Raises: ValueError."""
    fenced = _FENCE.match(answer)
    try:
        return json.loads(fenced[1] if fenced else answer)
    except RecursionError:
        raise ValueError("nests too deep") from None


def pick(answer: str, path: str) -> str | None:
    """The part of an answer that counts; None where it is not there."""
    if not path:
        return answer
    try:
        return as_text(look_up(read_json(answer), path))
    except (ValueError, MissingField):
        return None


def _both(metric: Metric, sample: Sample, answer: str) -> tuple[str | None, str]:
    """What counts of an answer, and its reference."""
    reference = as_text(look_up(sample.fields, metric.reference))
    return pick(answer, metric.answer_field), reference


def _is_said(part: str, said: str) -> bool:
    """Whole words, but for the end of the last: `four day` is in `four days`, 6 is not in 60."""
    return f" {part} " in said if not part or part[-1].isdigit() else f" {part}" in said


def _reference_of(reference: Any, name: str, kind: FieldMatch) -> Any:
    if kind == "present":
        return None
    return reference.get(name) if isinstance(reference, dict) else None


def _match(value: Any, reference: Any, kind: FieldMatch) -> float:
    if value is None or value in ("", [], {}):
        return 0.0
    if kind == "present":
        return 1.0
    if kind == "set":
        return set_f1(phrases(value), phrases(reference))
    if kind == "overlap":
        return word_f1(as_text(value), as_text(reference))
    return float(normalized(as_text(value)) == normalized(as_text(reference)))


def phrases(value: Any) -> list[str]:
    """A list of texts, or a text of phrases between commas."""
    if isinstance(value, list):
        return [as_text(part) for part in value]
    return as_text(value).split(",")
