"""StepTimes: how long a step of a tier takes, by what is in it. Measured, not derived.

In: runs of a backend at several batch sizes and prompt lengths. Out: a table that the simulation of
`capacity` reads: seconds of a step that goes on with B answers, and seconds more for each prompt
token in it. Units: seconds, tokens.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.core.backend import Backend
from headrace.core.message import Message
from headrace.core.request import GenerateRequest, SamplingParams

BATCH_SIZES = (1, 2, 4, 8)
PROMPT_WORDS = (20, 400)
ANSWER_TOKENS = 24
_WORD = "river stone paper window orange "


@dataclass(frozen=True, slots=True)
class StepTimes:
    """`decode_s[i]` is a step with `batch_sizes[i]` answers; between them it goes along a line."""

    batch_sizes: tuple[int, ...]
    decode_s: tuple[float, ...]
    prompt_token_s: float
    prompt_base_s: float

    @staticmethod
    def read(entry: Mapping[str, Any]) -> StepTimes:
        """From JSON."""
        return StepTimes(
            tuple(entry["batch_sizes"]),
            tuple(entry["decode_s"]),
            float(entry["prompt_token_s"]),
            float(entry["prompt_base_s"]),
        )

    def step_s(self, num_answers: int, num_prompt_tokens: int) -> float:
        """A step with answers and prompt tokens in it."""
        prompt_s = num_prompt_tokens * self.prompt_token_s
        if num_answers == 0:
            return self.prompt_base_s + prompt_s
        sizes, times = self.batch_sizes, self.decode_s
        if num_answers > sizes[-1] and len(sizes) > 1:
            slope = (times[-1] - times[-2]) / (sizes[-1] - sizes[-2])
            decode_s = times[-1] + max(0.0, slope) * (num_answers - sizes[-1])
        else:
            decode_s = float(np.interp(num_answers, sizes, times))
        return decode_s + prompt_s


@dataclass(frozen=True, slots=True)
class _Run:
    ttft_s: float
    tpot_s: float
    input_tokens: int


async def measure_steps(backend: Backend) -> StepTimes:
    """Run short answers together, and prompts of two lengths alone. Takes some seconds."""
    await _run(backend, PROMPT_WORDS[0])
    decode_s = []
    for size in BATCH_SIZES:
        runs = await asyncio.gather(*(_run(backend, PROMPT_WORDS[0]) for _ in range(size)))
        decode_s.append(float(np.median([run.tpot_s for run in runs])))
    short = [await _run(backend, PROMPT_WORDS[0]) for _ in range(2)]
    long = [await _run(backend, PROMPT_WORDS[1]) for _ in range(2)]
    prompt_token_s, prompt_base_s = _line(short, long)
    return StepTimes(BATCH_SIZES, tuple(decode_s), prompt_token_s, prompt_base_s)


def _line(short: Sequence[_Run], long: Sequence[_Run]) -> tuple[float, float]:
    """Seconds a prompt token, and seconds of a step whatever is in it."""
    a, b = min(short, key=lambda run: run.ttft_s), min(long, key=lambda run: run.ttft_s)
    slope = max(1e-9, (b.ttft_s - a.ttft_s) / max(1, b.input_tokens - a.input_tokens))
    return slope, max(0.0, a.ttft_s - slope * a.input_tokens)


async def _run(backend: Backend, num_words: int) -> _Run:
    text = (_WORD * (num_words // 5 + 1)).strip()
    request = GenerateRequest(
        request_id=f"steps-{uuid.uuid4().hex[:12]}",
        model=backend.models()[0].name,
        messages=(Message("user", text),),
        add_special_tokens=False,
        cache_salt=uuid.uuid4().hex,
        sampling=SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS, ignore_eos=True),
    )
    begin_s = time.perf_counter()
    first_s, first_tokens, last_s, usage = None, 0, begin_s, None
    async for output in await backend.generate(request):
        last_s, usage = time.perf_counter(), output.usage
        if first_s is None and usage.output_tokens:
            first_s, first_tokens = last_s, usage.output_tokens
    if usage is None or first_s is None:
        return _Run(last_s - begin_s, 0.0, 0)
    tpot_s = (last_s - first_s) / max(1, usage.output_tokens - first_tokens)
    return _Run(first_s - begin_s, tpot_s, usage.input_tokens)
