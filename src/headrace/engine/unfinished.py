"""UnfinishedRequests: what an engine process was given and has not ended, and what it sent of it.

In: messages to the engine, its reports. Out: reports as if there had only ever been one engine, and
what the next engine is to be sent when one has ended: each answer's prompt and tokens, so that it
goes on where it was. An answer that engines end on is found out and failed alone. Knows nothing of
processes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from headrace.core.clock import Clock
from headrace.core.step import RequestProgress, StepReport, StepStats
from headrace.engine.messages import Abort, Submit
from headrace.sched.request_state import RequestSpec

MAX_FAILURES = 3
"""Engines that may end on an answer without a token of it; before the last it runs as a suspect."""


@dataclass(slots=True)
class _Request:
    """`before` is the newest progress from engines that ended, `newest` from any.

    `is_sent` and `has_gained` (a report named it) are about the engine that runs now.
    """

    spec: RequestSpec
    submitted_at_s: float
    token_ids: list[int] = field(default_factory=list)
    num_prompt_logprobs: int = 0
    newest: RequestProgress | None = None
    before: RequestProgress | None = None
    num_failures: int = 0
    is_sent: bool = False
    has_gained: bool = False
    is_aborted: bool = False

    def so_far(self) -> RequestProgress:
        """What is known of it; before any report, when it was queued."""
        first = RequestProgress(self.spec.request_id, queued_at_s=self.submitted_at_s)
        return self.newest or first

    def rest(self) -> RequestSpec:
        """What is left to generate."""
        return replace(
            self.spec,
            output_token_ids=tuple(self.token_ids),
            num_prompt_logprobs=self.num_prompt_logprobs,
        )

    def ended(self, error: str | None = None) -> RequestProgress:
        """Progress that ends it without an engine."""
        return self.so_far()._replace(
            new_token_ids=(),
            logprobs=(),
            prompt_logprobs=(),
            finish_reason="abort" if error is None else "error",
            error=error,
        )


class UnfinishedRequests:
    """Requests in the order in which they came. One thread at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._requests: dict[str, _Request] = {}
        self._suspects: deque[str] = deque()
        self._on_trial: str | None = None
        self._ended: list[RequestProgress] = []

    def __len__(self) -> int:
        return len(self._requests)

    def unsent_adapters(self) -> frozenset[str]:
        """Digests of adapters that requests need which the engine does not have yet."""
        waiting = (request for request in self._requests.values() if not request.is_sent)
        return frozenset(request.spec.adapter for request in waiting)

    def submit(self, message: Submit, is_sent: bool) -> None:
        """Keep what the engine is sent, or the next one will be."""
        request = _Request(message.spec, self._clock.monotonic_s(), is_sent=is_sent)
        self._requests[message.spec.request_id] = request

    def abort(self, message: Abort) -> None:
        """Nobody wants it any more: the next engine is not given it."""
        request = self._requests.get(message.request_id)
        if request is not None:
            request.is_aborted = True

    def take(self, report: StepReport) -> StepReport:
        """Keep what a report says, and say it as an engine would that never ended."""
        progress = tuple(map(self._take, report.progress))
        if all(new is old for new, old in zip(progress, report.progress, strict=True)):
            return report
        return replace(report, progress=progress)

    def start_again(self) -> list[Submit]:
        """The engine has ended: what the next one is sent at once. See `next_suspect`, `ended`."""
        self._on_trial = None
        self._suspects.clear()
        again = []
        for name, request in list(self._requests.items()):
            if request.is_sent:
                request.num_failures = 0 if request.has_gained else request.num_failures + 1
                request.before = request.so_far()
            request.is_sent = request.has_gained = False
            if request.is_aborted:
                self._end(request)
            elif request.num_failures >= MAX_FAILURES:
                count = request.num_failures
                self._end(request, f"The engine ended {count} times while it ran this request.")
            elif request.num_failures == MAX_FAILURES - 1:
                self._suspects.append(name)
            else:
                again.append(self._submit_again(request))
        return again

    def next_suspect(self) -> Submit | None:
        """One answer that engines may have ended on, once the one before has gained a token."""
        while self._on_trial is None and self._suspects:
            request = self._requests[self._suspects.popleft()]
            if request.is_aborted:
                self._end(request)
                continue
            self._on_trial = request.spec.request_id
            return self._submit_again(request)
        return None

    def ended(self) -> StepReport | None:
        """What ended without an engine since the last call."""
        if not self._ended:
            return None
        progress, self._ended = tuple(self._ended), []
        now_s = self._clock.monotonic_s()
        return StepReport(0, progress, StepStats(num_waiting=len(self)), ended_at_s=now_s)

    def _submit_again(self, request: _Request) -> Submit:
        request.is_sent = True
        return Submit(request.rest())

    def _end(self, request: _Request, error: str | None = None) -> None:
        self._ended.append(request.ended(error))
        del self._requests[request.spec.request_id]

    def _take(self, progress: RequestProgress) -> RequestProgress:
        request = self._requests.get(progress.request_id)
        if request is None:
            return progress
        if request.spec.request_id == self._on_trial:
            self._on_trial = None
        request.has_gained = True
        request.token_ids += progress.new_token_ids
        request.num_prompt_logprobs += len(progress.prompt_logprobs)
        if request.before is not None:
            progress = _continued(request.before, progress)
        request.newest = progress
        if progress.finish_reason is not None:
            del self._requests[progress.request_id]
        return progress


def _continued(before: RequestProgress, now: RequestProgress) -> RequestProgress:
    """Progress of an answer that another engine had: queued there, perhaps started and cached."""
    now = now._replace(
        num_preemptions=before.num_preemptions + now.num_preemptions,
        num_draft_tokens=before.num_draft_tokens + now.num_draft_tokens,
        num_accepted_tokens=before.num_accepted_tokens + now.num_accepted_tokens,
        prefill_compute_s=before.prefill_compute_s + now.prefill_compute_s,
        decode_compute_s=before.decode_compute_s + now.decode_compute_s,
        queued_at_s=before.queued_at_s,
    )
    if before.scheduled_at_s is None:
        return now
    return now._replace(
        num_cached_tokens=before.num_cached_tokens, scheduled_at_s=before.scheduled_at_s
    )
