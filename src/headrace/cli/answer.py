"""An answer in the terminal, for `run` and `chat`: asking for it, and reading it as it comes.

In: a backend, messages. Out: text on stdout, a summary on stderr.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from headrace.core.backend import Backend
from headrace.core.message import Message
from headrace.core.output import FinishReason
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.usage import Usage

# The speed of fewer says little, so it is said of how many it is.
FEW_TIMED_TOKENS = 16


@dataclass(slots=True)
class Answer:
    """An answer and how it went. Units: seconds; `ttft_s` and `total_s` from the request on."""

    text: str = ""
    usage: Usage = field(default_factory=Usage)
    finish_reason: FinishReason | None = None
    ttft_s: float | None = None
    total_s: float = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """Speed after the first token."""
        if self.ttft_s is None or self.usage.output_tokens < 2 or self.total_s <= self.ttft_s:
            return None
        return (self.usage.output_tokens - 1) / (self.total_s - self.ttft_s)


def make_request(
    backend: Backend,
    sampling: SamplingParams,
    *,
    prompt: str | None = None,
    messages: Sequence[Message] | None = None,
    default_max_tokens: int | None = None,
) -> GenerateRequest:
    """One request to the backend's first adapter, or to the model where there is none."""
    models = backend.models()
    return GenerateRequest(
        request_id=f"cli-{uuid.uuid4().hex[:12]}",
        model=next((info.name for info in models if info.parent is not None), models[0].name),
        prompt=prompt,
        messages=None if messages is None else tuple(messages),
        add_special_tokens=messages is None,
        sampling=sampling,
        default_max_tokens=default_max_tokens,
    )


async def read_answer(
    backend: Backend, request: GenerateRequest, answer: Answer, show: Callable[[str], None]
) -> None:
    """Run a request and show its text as it comes.

    Mutates: answer, which holds what has come so far when this is cancelled.
    Raises: RequestError, CapacityError, BackendError.
    """
    begin_s = time.perf_counter()
    stream = await backend.generate(request)
    async with aclosing(stream):
        async for output in stream:
            now_s = time.perf_counter() - begin_s
            if answer.ttft_s is None and output.usage.output_tokens:
                answer.ttft_s = now_s
            answer.usage, answer.total_s = output.usage, now_s
            for delta in output.deltas:
                answer.text += delta.text
                answer.finish_reason = delta.finish_reason or answer.finish_reason
                if delta.text:
                    show(delta.text)


def print_text(text: str) -> None:
    """Show a piece of an answer at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def summarize(answer: Answer) -> str:
    """One line: tokens, time to the first token, speed from the second one on."""
    usage = answer.usage
    cached = f" ({usage.cached_input_tokens} cached)" if usage.cached_input_tokens else ""
    parts = [f"{usage.input_tokens} prompt tokens{cached}", f"{usage.output_tokens} generated"]
    if answer.ttft_s is not None:
        parts.append(f"first token after {answer.ttft_s:.2f} s")
    if answer.tokens_per_s is not None:
        num_timed = usage.output_tokens - 1
        of_few = f" over {num_timed}" if num_timed < FEW_TIMED_TOKENS else ""
        parts.append(f"{answer.tokens_per_s:.1f} tokens/s{of_few}")
    if answer.finish_reason == "length":
        parts.append("cut at the length limit")
    return ", ".join(parts)
