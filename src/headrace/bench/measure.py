"""What a run of requests took: time to first token, time per output token, tokens per second.

In: a started engine, prompt and answer lengths. Out: frozen results. Prompts are random token ids,
new in each round, so that no prefix is cached. Units: seconds, tokens.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from headrace.core.backend import Backend
from headrace.core.frozen import frozen
from headrace.core.request import GenerateRequest, SamplingParams


@frozen
class RequestTiming:
    """One request, as its caller sees it."""

    ttft_s: float
    total_s: float
    num_output_tokens: int

    @property
    def tpot_s(self) -> float:
        """Mean time per output token after the first."""
        return (self.total_s - self.ttft_s) / max(1, self.num_output_tokens - 1)


@frozen
class RunTiming:
    """Requests that ran together, and the wall time of all of them."""

    requests: tuple[RequestTiming, ...]
    wall_s: float

    @property
    def output_tokens_per_s(self) -> float:
        """Answer tokens per second of wall time, prompts included in the time."""
        return sum(request.num_output_tokens for request in self.requests) / self.wall_s


class PromptSource:
    """Random token ids, never the same prompt twice. Special tokens are left out by `high`."""

    def __init__(self, vocab_size: int, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret depends on it
        self._high = min(vocab_size, 100_000)

    def prompt(self, num_tokens: int) -> tuple[int, ...]:
        return tuple(self._random.randrange(1000, self._high) for _ in range(num_tokens))


async def run_together(
    engine: Backend, prompts: Sequence[tuple[int, ...]], max_tokens: int
) -> RunTiming:
    """Send all prompts at once and wait for all answers, each exactly `max_tokens` long."""
    started = time.perf_counter()
    timings = await asyncio.gather(
        *(_run_one(engine, index, prompt, max_tokens) for index, prompt in enumerate(prompts))
    )
    return RunTiming(tuple(timings), time.perf_counter() - started)


async def _run_one(
    engine: Backend, index: int, prompt: tuple[int, ...], max_tokens: int
) -> RequestTiming:
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    request = GenerateRequest(
        request_id=f"bench-{index}-{time.perf_counter_ns()}",
        model=engine.models()[0].name,
        prompt=prompt,
        sampling=sampling,
    )
    started = time.perf_counter()
    first_s = None
    num_tokens = 0
    outputs = await engine.generate(request)
    async for output in outputs:
        num_tokens += sum(len(delta.token_ids) for delta in output.deltas)
        if first_s is None and num_tokens:
            first_s = time.perf_counter() - started
    total_s = time.perf_counter() - started
    return RequestTiming(first_s if first_s is not None else total_s, total_s, num_tokens)
