"""Scores that a model gives: closeness of meaning by an encoder, preference by a judge.

In: texts, references, an open Backend. Out: numbers from 0 to 1, kept in the journal so that each
is asked once. A judge sees each pair in both orders; a pair is won by the text that it prefers in
both, and a tie where its verdicts differ. Knows no tier's price.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Sequence
from contextlib import aclosing

from headrace.core.backend import Backend
from headrace.core.errors import BackendError
from headrace.core.frozen import frozen
from headrace.core.message import Message
from headrace.core.request import GenerateRequest, Pooling, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.planner.journal import Journal
from headrace.planner.prompt_template import as_text, look_up
from headrace.planner.quality import MeanMetric, pick
from headrace.planner.workload import Sample, Task, Tier

# Of a judge: the first text wins in both orders, in one or none, or the second does.
WIN, TIE, LOSS = 1.0, 0.5, 0.0
_VERDICT = StructuredOutputs(choice=("A", "B"))
_LETTER = re.compile(r"\W*(A|B)\b")
_VERDICT_TOKENS = 8


@frozen
class Scorer:
    """A model that is open. `tier` is a judge's; encoders have none."""

    backend: Backend
    tier: Tier | None = None


@frozen
class Comparison:
    """Two texts for one request, and which of them is preferred: nearer in meaning, or better.

    `question` is a judge's; "" is an encoder's.
    """

    texts: tuple[str, str]
    asked: str = ""
    question: str = ""

    @property
    def key(self) -> str:
        """All that a score depends on, as one text."""
        return "\0".join((self.question, self.asked, *self.texts))


class GivenScore(MeanMetric):
    """A MeanMetric whose scores a model gave; those that are missing are told apart."""

    def __init__(self, task: Task, scorer: str, journal: Journal) -> None:
        self._task, self._scorer, self._journal = task, scorer, journal

    def has(self, sample: Sample, answer: str) -> bool:
        """Whether the model was asked."""
        return self._find(sample, answer) is not None

    def score(self, sample: Sample, answer: str) -> float:
        """See MeanMetric."""
        return self._find(sample, answer) or 0.0

    def _find(self, sample: Sample, answer: str) -> float | None:
        key = beside_reference(self._task, sample, answer).key
        return self._journal.score(self._task.name, self._scorer, key)


def beside_reference(task: Task, sample: Sample, answer: str) -> Comparison:
    """What the metric of a task asks of an answer."""
    metric = task.metric
    reference = as_text(look_up(sample.fields, metric.reference))
    texts = (pick(answer, metric.answer_field) or "", reference)
    if metric.kind == "similarity":
        return Comparison(texts)
    return Comparison(texts, task.call.prompt.render(sample.fields), metric.question)


async def compare(scorer: Scorer, comparison: Comparison) -> float:
    """A score from 0 to 1. An empty text is never the better one. Raises: BackendError."""
    first, second = comparison.texts
    if not first.strip():
        return LOSS
    if not comparison.question:
        a, b = await _vector(scorer.backend, first), await _vector(scorer.backend, second)
        return max(0.0, min(1.0, _cosine(a, b)))
    if not second.strip():
        return WIN
    votes = (
        await _verdict(scorer, comparison, (first, second)),
        await _verdict(scorer, comparison, (second, first)),
    )
    return {("A", "B"): WIN, ("B", "A"): LOSS}.get(votes, TIE)


def _judge_prompt(comparison: Comparison, pair: tuple[str, str]) -> str:
    return (
        f"Two answers to the same request are compared.\n\n[Request]\n{comparison.asked}\n\n"
        f"[Answer A]\n{pair[0]}\n\n[Answer B]\n{pair[1]}\n\n{comparison.question} Reply with A or "
        "B alone."
    )


async def _verdict(scorer: Scorer, comparison: Comparison, pair: tuple[str, str]) -> str:
    """A, B, or "" for an answer that is neither."""
    tier = scorer.tier
    request = GenerateRequest(
        request_id=f"judge-{uuid.uuid4().hex[:16]}",
        model=scorer.backend.models()[0].name,
        messages=(Message("user", _judge_prompt(comparison, pair)),),
        # Chat templates of this engine bring their own; elsewhere nobody asks.
        add_special_tokens=tier is not None and not tier.is_local,
        sampling=SamplingParams(
            temperature=0.0,
            max_tokens=_VERDICT_TOKENS,
            structured_outputs=None if tier is not None and not tier.takes_choices else _VERDICT,
        ),
    )
    text = ""
    async with aclosing(await scorer.backend.generate(request)) as outputs:
        async for output in outputs:
            text += "".join(delta.text for delta in output.deltas)
    found = _LETTER.match(text)
    return "" if found is None else found[1]


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
