"""Scores that a model gives: closeness of meaning by an encoder, preference by a judge.

In: texts, references, an open Backend. Out: numbers from 0 to 1, kept in the journal so that each
is asked once. A judge sees each pair in both orders; where its two verdicts differ, the pair is a
tie. Knows no tier's price.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from contextlib import aclosing

from headrace.core.backend import Backend
from headrace.core.errors import BackendError
from headrace.core.message import Message
from headrace.core.request import GenerateRequest, Pooling, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.planner.journal import Journal
from headrace.planner.prompt_template import as_text, look_up
from headrace.planner.quality import MeanMetric, pick
from headrace.planner.workload import Metric, Sample, Task

# Of a judge: the answer wins in both orders, in one, in none.
WIN, TIE, LOSS = 1.0, 0.5, 0.0
_VERDICT = StructuredOutputs(choice=("A", "B"))


class GivenScore(MeanMetric):
    """A MeanMetric whose scores a model gave; those that are missing are told apart."""

    def __init__(self, task: str, metric: Metric, journal: Journal) -> None:
        self._task, self._metric, self._journal = task, metric, journal

    def has(self, sample: Sample, answer: str) -> bool:
        """Whether the model was asked."""
        key = pair_text(self._metric, sample, answer)
        return self._journal.score(self._task, self._metric.model, key) is not None

    def score(self, sample: Sample, answer: str) -> float:
        """See MeanMetric."""
        key = pair_text(self._metric, sample, answer)
        return self._journal.score(self._task, self._metric.model, key) or 0.0


def pair_text(metric: Metric, sample: Sample, answer: str) -> str:
    """What a score depends on, as one text."""
    reference = as_text(look_up(sample.fields, metric.reference))
    return f"{metric.question}\0{reference}\0{pick(answer, metric.answer_field) or ''}"


async def score_similarity(backend: Backend, metric: Metric, sample: Sample, answer: str) -> float:
    """Cosine of the two texts' vectors; below 0 is 0."""
    text = pick(answer, metric.answer_field)
    if not text:
        return 0.0
    a = await _vector(backend, text)
    b = await _vector(backend, as_text(look_up(sample.fields, metric.reference)))
    return max(0.0, min(1.0, _cosine(a, b)))


async def score_preference(backend: Backend, task: Task, sample: Sample, answer: str) -> float:
    """Whether a judge prefers the answer to the reference, asked in both orders."""
    text = pick(answer, task.metric.answer_field)
    if not text:
        return LOSS
    reference = as_text(look_up(sample.fields, task.metric.reference))
    asked = task.call.prompt.render(sample.fields)
    wins = (await _verdict(backend, task.metric.question, asked, (text, reference)) == "A") + (
        await _verdict(backend, task.metric.question, asked, (reference, text)) == "B"
    )
    return (LOSS, TIE, WIN)[wins]


def _judge_prompt(question: str, asked: str, pair: tuple[str, str]) -> str:
    return (
        f"Two answers to the same request are compared.\n\n[Request]\n{asked}\n\n"
        f"[Answer A]\n{pair[0]}\n\n[Answer B]\n{pair[1]}\n\n{question} Reply with A or B alone."
    )


async def _verdict(backend: Backend, question: str, asked: str, pair: tuple[str, str]) -> str:
    request = GenerateRequest(
        request_id=f"judge-{uuid.uuid4().hex[:16]}",
        model=backend.models()[0].name,
        messages=(Message("user", _judge_prompt(question, asked, pair)),),
        add_special_tokens=False,
        sampling=SamplingParams(temperature=0.0, max_tokens=4, structured_outputs=_VERDICT),
    )
    text = ""
    async with aclosing(await backend.generate(request)) as outputs:
        async for output in outputs:
            text += "".join(delta.text for delta in output.deltas)
    return text.strip()


async def _vector(backend: Backend, text: str) -> Sequence[float]:
    """Raises: BackendError where the model makes none."""
    info = backend.models()[0]
    pooling: Pooling = info.pooling
    request = GenerateRequest(
        request_id=f"similarity-{uuid.uuid4().hex[:16]}",
        model=info.name,
        prompt=text,
        pooling=pooling,
        truncate_prompt_tokens=-1,
    )
    async with aclosing(await backend.generate(request)) as outputs:
        async for output in outputs:
            if output.vector is not None:
                return output.vector
    raise BackendError(f"{info.name} makes no vectors; similarity needs an encoder.")


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    norms = math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0
