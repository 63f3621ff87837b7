"""Profiler: asks every tier every call, for real, and writes down what came.

In: calls, an open Backend, the journal. Out: an Answer in the journal for each sample, also for one
that failed. What the journal has is not asked again; failures are. Each request has a prefix cache
of its own, so that no answer is cheaper for coming second. Knows no metric and no price.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import zip_longest

from headrace.core.backend import Backend
from headrace.core.errors import BackendError, CapacityError, RequestError
from headrace.core.frozen import frozen
from headrace.core.message import Message
from headrace.core.output import RequestOutput, RequestTimes
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.usage import Usage
from headrace.planner.journal import Answer, Journal, form_of, messages_of, request_key
from headrace.planner.workload import Call, Sample, Tier

MAX_FAILURES_IN_A_ROW = 5
WARM_UP_TOKENS = 4

OnAnswer = Callable[[Answer], None]


@frozen
class Ask:
    """A request that the journal lacks."""

    call: Call
    sample: Sample


def chosen_samples(call: Call, limit: int | None) -> tuple[Sample, ...]:
    """Samples in an order of chance that is always the same: a larger limit keeps the smaller's."""
    ordered = sorted(call.samples, key=lambda each: hashlib.sha256(each.id.encode()).digest())
    return tuple(ordered[:limit])


def missing(
    calls: Sequence[Call], tier: Tier, journal: Journal, limit: int | None
) -> tuple[Ask, ...]:
    """What is left to ask a tier: every call about one sample, then about the next.

    So a run that is cut off has as many samples of one call as of another. What calls ask alike is
    asked once.
    """
    asks: dict[str, Ask] = {}
    for samples in zip_longest(*(chosen_samples(call, limit) for call in calls)):
        for call, sample in zip(calls, samples, strict=True):
            known = None if sample is None else journal.find(call, tier, sample)
            if sample is not None and (known is None or known.error is not None):
                asks.setdefault(request_key(call, tier, sample), Ask(call, sample))
    return tuple(asks.values())


@dataclass(slots=True)
class Profiler:
    """Asks one tier. `concurrency` requests run at a time."""

    tier: Tier
    backend: Backend
    journal: Journal
    on_answer: OnAnswer
    concurrency: int = 1
    _failures_in_a_row: int = 0

    async def run(self, asks: Sequence[Ask]) -> None:
        """Ask everything. Raises: BackendError when the tier answers nothing any more."""
        if not asks:
            return
        await self._warm_up(asks)
        waiting = iter(asks)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(asks))):
                    group.create_task(self._work_off(waiting))
        except* BackendError as failed:
            first = failed.exceptions[0]
        else:
            return
        raise first

    async def _work_off(self, waiting: Iterator[Ask]) -> None:
        for ask in waiting:
            answer = await self._ask(ask)
            self.journal.add(answer)
            self.on_answer(answer)
            self._failures_in_a_row = self._failures_in_a_row + 1 if answer.error else 0
            if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
                raise BackendError(
                    f"Tier {self.tier.name} failed {MAX_FAILURES_IN_A_ROW} requests in a row, the "
                    f"last with: {answer.error}. What was answered is kept; the same command goes "
                    "on from there."
                )

    async def _warm_up(self, asks: Sequence[Ask]) -> None:
        """Requests in no measurement: an engine's first maps weights in, its first form has the
        vocabulary read (1 s), and elsewhere each form is compiled when it first comes.
        """
        for form in dict.fromkeys((None, *(form_of(ask.call, self.tier) for ask in asks))):
            request = self._request((Message("user", "Hello"),), SamplingParams(
                temperature=0.0, max_tokens=WARM_UP_TOKENS, structured_outputs=form))  # fmt: skip
            try:
                async with aclosing(await self.backend.generate(request)) as outputs:
                    async for _ in outputs:
                        pass
            except (BackendError, CapacityError, RequestError) as error:
                if form is None:
                    name = self.tier.name
                    raise BackendError(f"Tier {name} does not answer: {error.message}") from None
                # A form that is refused is an error of its samples.

    async def _ask(self, ask: Ask) -> Answer:
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=ask.call.max_tokens,
            structured_outputs=form_of(ask.call, self.tier),
        )
        heard = _Heard(time.perf_counter())
        error: str | None = None
        try:
            request = self._request(messages_of(ask.call, ask.sample), sampling)
            async with aclosing(await self.backend.generate(request)) as outputs:
                async for output in outputs:
                    heard.take(output)
        except (BackendError, CapacityError, RequestError) as raised:
            error = f"{type(raised).__name__}: {raised.message}"
        if error is None and not heard.usage.output_tokens:
            error = "the answer came without token counts (usage)"
        times = heard.times
        return Answer(
            key=request_key(ask.call, self.tier, ask.sample),
            call=ask.call.name,
            tier=self.tier.name,
            sample=ask.sample.id,
            text=heard.text,
            usage=heard.usage,
            ttft_s=heard.ttft_s,
            e2e_s=heard.e2e_s,
            prefill_s=heard.ttft_s if times is None else times.prefill_s,
            decode_s=heard.e2e_s - heard.ttft_s if times is None else times.decode_s,
            finish_reason=heard.finish_reason,
            concurrency=self.concurrency,
            answered_unix_s=round(time.time(), 3),
            marks=tuple(heard.marks),
            error=error,
            prefill_compute_s=None if times is None else times.prefill_compute_s,
            decode_compute_s=None if times is None else times.decode_compute_s,
        )

    def _request(self, messages: tuple[Message, ...], sampling: SamplingParams) -> GenerateRequest:
        name = uuid.uuid4().hex
        return GenerateRequest(
            request_id=f"profile-{name[:16]}",
            model=self.backend.models()[0].name,
            messages=messages,
            # Chat templates of this engine bring their own; elsewhere nobody asks.
            add_special_tokens=not self.tier.is_local,
            sampling=sampling,
            cache_salt=name,
        )


class _Heard:
    """What has come of an answer so far."""

    def __init__(self, begin_s: float) -> None:
        self._begin_s = begin_s
        self.text = ""
        self.usage = Usage()
        self.ttft_s = self.e2e_s = 0.0
        # Of the engine, where it tells them.
        self.times: RequestTimes | None = None
        self.finish_reason: str | None = None
        self.marks: list[tuple[int, int]] = []

    def take(self, output: RequestOutput) -> None:
        """One step of the stream."""
        self.e2e_s = time.perf_counter() - self._begin_s
        gained = "".join(delta.text for delta in output.deltas)
        if not self.ttft_s and (gained or output.usage.output_tokens):
            self.ttft_s = self.e2e_s
        self.text += gained
        if output.usage.output_tokens > self.usage.output_tokens:
            self.marks.append((output.usage.output_tokens, len(self.text)))
        self.usage = output.usage
        for delta in output.deltas:
            self.finish_reason = delta.finish_reason or self.finish_reason
        self.times = output.times or self.times
