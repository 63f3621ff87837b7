"""EngineActivity: what one engine does for whom, put together from all places a request can be in.

In: requests as they are prepared, open ones, Inspections of the scheduler. Out: RequestActivity
records. An engine that is busy or gone is not waited for: what lies before it is known here.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

from headrace.core.activity import AnswerActivity, RequestActivity, WaitReason
from headrace.core.clock import Clock
from headrace.core.errors import CapacityError
from headrace.core.request import GenerateRequest
from headrace.engine.admission import Admission
from headrace.engine.messages import Inspect, Inspection
from headrace.engine.open_request import OpenRequest

ANSWER_TIMEOUT_S = 2.0
"""A step may be that long; then the scheduler is not asked any further."""

Answers = Mapping[str, AnswerActivity]


class EngineActivity:
    """`take` is called by the output thread, the rest in event loops."""

    def __init__(self, send: Callable[[Inspect], None], room: Admission, clock: Clock) -> None:
        self._send, self._room, self._clock = send, room, clock
        self._serial = itertools.count()
        self._preparing: dict[str, tuple[GenerateRequest, float]] = {}
        self._asked: dict[int, Future[Answers]] = {}

    @contextmanager
    def preparing(self, unique_id: str, request: GenerateRequest) -> Iterator[None]:
        """A request is made into tokens, and its form compiled, while the block runs."""
        self._preparing[unique_id] = (request, self._clock.monotonic_s())
        try:
            yield
        finally:
            del self._preparing[unique_id]

    def take(self, inspection: Inspection) -> None:
        """Tell who asked."""
        future = self._asked.pop(inspection.inspect_id, None)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result({answer.request_id: answer for answer in inspection.answers})

    async def ask(self) -> Answers | None:
        """What the scheduler says now; None when it does not in time."""
        inspect_id, future = next(self._serial), Future[Answers]()
        self._asked[inspect_id] = future
        try:
            self._send(Inspect(inspect_id))
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await asyncio.wrap_future(future)
        except (TimeoutError, CapacityError):
            return None
        finally:
            self._asked.pop(inspect_id, None)

    def rows(
        self, opened: Iterable[tuple[str, OpenRequest]], answers: Answers | None
    ) -> tuple[RequestActivity, ...]:
        """Those that run, then those that wait in the order of the queue, then the others."""
        rows = [self._open_row(answer_id, request, answers) for answer_id, request in opened]
        rows.sort(key=lambda row: (row.phase != "running", row.queue_position or 2**63))
        return (*rows, *(self._preparing_row(*entry) for entry in list(self._preparing.items())))

    def _open_row(
        self, answer_id: str, request: OpenRequest, answers: Answers | None
    ) -> RequestActivity:
        prepared, found = request.prepared, (answers or {}).get(answer_id)
        spec = prepared.specs[0]
        row = RequestActivity(
            request_id=answer_id,
            call_id=prepared.call_id,
            tenant=spec.tenant,
            phase="waiting" if found is None or found.waits_for else "running",
            waits_for="engine" if found is None else found.waits_for,
            age_s=self._clock.monotonic_s() - request.arrived_at_s,
            priority=spec.priority,
            is_background=spec.is_background,
            has_reader=not request.is_closed,
            num_prompt_tokens=len(spec.prompt_token_ids),
            max_tokens=spec.max_tokens,
            num_output_tokens=request.answers[answer_id].num_output_tokens,
        )
        return row if found is None else self._with_answer(row, found)

    def _with_answer(self, row: RequestActivity, found: AnswerActivity) -> RequestActivity:
        """Add what the scheduler knows."""
        position = found.queue_position
        wait_s = None if position is None else self._room.predict_start_s(position)
        return replace(
            row,
            num_output_tokens=found.num_output_tokens,
            num_computed_tokens=found.num_computed_tokens,
            num_cached_tokens=found.num_cached_tokens,
            num_blocks=found.num_blocks,
            num_preemptions=found.num_preemptions,
            queue_position=position,
            num_others_ahead=None if position is None else found.num_others_ahead,
            predicted_wait_s=wait_s,
        )

    def _preparing_row(
        self, unique_id: str, entry: tuple[GenerateRequest, float]
    ) -> RequestActivity:
        request, since_s = entry
        holds_form = request.sampling.structured_outputs is not None or (
            bool(request.tools) and request.tool_choice.mode not in ("auto", "none")
        )
        reason: WaitReason = "form" if holds_form else "text"
        return RequestActivity(
            request_id=unique_id,
            call_id=request.call_id,
            tenant=request.tenant,
            phase="preparing",
            waits_for=reason,
            age_s=self._clock.monotonic_s() - since_s,
            priority=request.priority,
            is_background=request.is_background,
            max_tokens=request.sampling.max_tokens,
        )
