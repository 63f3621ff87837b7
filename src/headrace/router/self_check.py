"""Self-check: a model is asked yes or no about an answer.

In: a request and its whole answer. Out: the question as a request, and what the reply says. Asks
nobody itself. The question holds the conversation and the answer, so it costs about as much input
as both have tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from headrace.core.message import Message
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.routing_options import SelfCheckConfig
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.usage import Usage
from headrace.router.cascade import Verdict
from headrace.router.response_cache import join_outputs

_WORD = re.compile(r"[^\W_]+")


def question_about(
    request: GenerateRequest, answer: RequestOutput, config: SelfCheckConfig, is_local: bool
) -> GenerateRequest | None:
    """What is asked; None where the answer is no text: calls of tools, or token ids as a prompt.

    `is_local`: the reply can be held to the two words.
    """
    if any(delta.tool_calls for delta in answer.deltas):
        return None
    messages = request.messages
    if messages is None:
        if not isinstance(request.prompt, str):
            return None
        messages = (Message("user", request.prompt),)
    said = "\n\n".join(delta.text for delta in answer.deltas)
    form = StructuredOutputs(choice=("yes", "no")) if is_local else None
    return GenerateRequest(
        request_id=f"{request.request_id}-check",
        model=request.model,
        messages=(*messages, Message("assistant", said), Message("user", config.question)),
        splits_reasoning=True,
        sampling=SamplingParams(
            temperature=0.0, max_tokens=config.max_tokens, structured_outputs=form
        ),
        tenant=request.tenant,
        cache_salt=request.cache_salt,
        priority=request.priority,
        is_background=request.is_background,
        call_id=request.call_id,
        trace=request.trace,
        task=request.task,
        is_whole=True,
    )


def dearest_question(request: GenerateRequest, config: SelfCheckConfig) -> GenerateRequest | None:
    """What costs no less than the question about any answer, for a budget; None: none is asked.

    The answer is part of the question, and here of the reply: tokens that are written cost no
    less than those that are read.
    """
    asked = question_about(request, RequestOutput(request.request_id, (), Usage()), config, False)
    if asked is None:
        return None
    sampling = request.sampling
    limit = sampling.max_tokens or request.default_max_tokens
    sampling = replace(sampling, max_tokens=None if limit is None else limit + config.max_tokens)
    return replace(request, messages=asked.messages, prompt=None, sampling=sampling)


def read_reply(outputs: Sequence[RequestOutput]) -> Verdict:
    """What a reply says: the first of its words that is yes or no."""
    answer = join_outputs(outputs)
    text = "" if answer is None else answer.deltas[0].text
    words = (word.lower() for word in _WORD.findall(text))
    found = next((word for word in words if word in ("yes", "no")), None)
    if found == "yes":
        return Verdict()
    return Verdict("self-check said no" if found else "self-check said neither yes nor no")
