"""Whether a cheap answer will do: how sure its model was, and whether it has the form asked for.

In: a request and a whole answer. Out: a Verdict with its reason. Asks nobody.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

from headrace.core.frozen import frozen
from headrace.core.output import CompletionDelta, RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.routing_config import CascadeConfig
from headrace.router.json_form import violation


@frozen
class Verdict:
    """`why` it will not do; empty where it does. `confidence` is 0 to 1 where it is known."""

    why: str = ""
    confidence: float | None = None

    @property
    def is_good(self) -> bool:
        return not self.why


def with_logprobs(request: GenerateRequest, config: CascadeConfig) -> GenerateRequest:
    """The same, asking for the log-probabilities that the check reads."""
    if config.min_mean_logprob is None or request.sampling.logprobs is not None:
        return request
    return replace(request, sampling=replace(request.sampling, logprobs=0))


def without_logprobs(
    outputs: Sequence[RequestOutput], request: GenerateRequest
) -> Sequence[RequestOutput]:
    """The outputs as the caller wants them."""
    if request.sampling.logprobs is not None:
        return outputs
    return [
        replace(output, deltas=tuple(replace(delta, logprobs=None) for delta in output.deltas))
        for output in outputs
    ]


def judge(request: GenerateRequest, answer: RequestOutput | None, config: CascadeConfig) -> Verdict:
    """Look at an answer; None is one that did not end."""
    if answer is None:
        return Verdict("no whole answer")
    confidence: float | None = None
    if config.min_mean_logprob is not None:
        means = [_mean_logprob(delta) for delta in answer.deltas]
        known = [mean for mean in means if mean is not None]
        if len(known) < len(means):
            return Verdict("no logprobs")
        mean = min(known)
        confidence = math.exp(min(0.0, mean))
        if mean < config.min_mean_logprob:
            why = f"mean logprob {mean:.2f} below {config.min_mean_logprob:g}"
            return Verdict(why, confidence)
    if config.check_form:
        for delta in answer.deltas:
            why = _broken_form(request, delta)
            if why:
                return Verdict(why, confidence)
    return Verdict(confidence=confidence)


def _mean_logprob(delta: CompletionDelta) -> float | None:
    """Of an answer's tokens; an empty answer says nothing of how sure it is."""
    positions = delta.logprobs
    if not positions:
        return None
    return sum(position.chosen.logprob for position in positions) / len(positions)


def _broken_form(request: GenerateRequest, delta: CompletionDelta) -> str:
    """What is wrong with the form of an answer; empty where it is as asked."""
    form = request.sampling.structured_outputs
    if not delta.text.strip() and not delta.tool_calls:
        return "empty answer"
    if form is None or delta.tool_calls:
        return ""
    if form.form == "choice":
        return "" if delta.text in (form.choice or ()) else "none of the choices"
    if form.form not in ("json", "json_object"):
        return ""
    try:
        value = json.loads(delta.text)
    except (ValueError, RecursionError):
        return "no JSON"
    if form.form == "json_object":
        return "" if isinstance(value, dict) else "no JSON object"
    # Where it differs is part of the answer, and a reason is in headers and the ledger.
    return "" if violation(value, json.loads(form.source)) is None else "not as its schema"
