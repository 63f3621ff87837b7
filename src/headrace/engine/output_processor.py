"""OutputProcessor: step reports -> outputs in the readers' mailboxes.

In: StepReport. Out: RequestOutput per reader; Abort for what needs no more tokens. Keeps an answer
until the engine says that it ended, also when its reader has left, so that what runs is known.
`open` and `close` may be called from any thread; the rest belongs to the output thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from headrace.core.errors import BackendError, HeadraceError, RequestError
from headrace.core.step import RequestProgress, StepReport
from headrace.engine.input_processor import PreparedRequest
from headrace.engine.open_request import OpenRequest
from headrace.engine.output_stream import Mailbox, wake_readers
from headrace.engine.stats import EngineStats
from headrace.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class OutputProcessor:
    """Answers in progress, by engine request id."""

    def __init__(
        self, tokenizer: Tokenizer, stats: EngineStats, abort: Callable[[str], None]
    ) -> None:
        self._tokenizer = tokenizer
        self._stats = stats
        self._abort = abort
        self._requests: dict[str, OpenRequest] = {}

    @property
    def num_unfinished(self) -> int:
        """Engine requests that have not ended, those without a reader included."""
        return len(self._requests)

    def opened(self) -> list[tuple[str, OpenRequest]]:
        """Engine requests that have not ended, by id. Any thread may ask."""
        return list(self._requests.items())

    def open(self, prepared: PreparedRequest, mailbox: Mailbox, arrived_at_s: float) -> OpenRequest:
        """Expect the answers of a request. Call it before the engine can answer."""
        request = OpenRequest(prepared, self._tokenizer, mailbox, arrived_at_s)
        for spec in prepared.specs:
            self._requests[spec.request_id] = request
        return request

    def close(self, request: OpenRequest) -> None:
        """Give up a request: its reader is gone. What still runs is aborted."""
        request.is_closed = True
        for answer_id in request.answers:
            if answer_id in self._requests:
                self._abort(answer_id)

    def apply(self, report: StepReport) -> None:
        """Turn a report into outputs and wake their readers once. Mutates: mailboxes."""
        self._stats.observe_step(report)
        woken: dict[int, Mailbox] = {}
        for progress in report.progress:
            request = self._requests.get(progress.request_id)
            if request is None:
                continue
            if progress.finish_reason is not None:
                del self._requests[progress.request_id]
            try:
                self._advance(request, progress, report.ended_at_s)
            except Exception as error:
                logger.exception("An answer could not be turned into text.")
                self._fail(request, f"{type(error).__name__}: {error}")
            if request.is_prompt_scored:
                woken[id(request)] = request.mailbox
        wake_readers(woken.values())

    def fail_all(self, error: BackendError) -> None:
        """End every stream with an error: the engine is gone."""
        requests = {id(request): request for request in list(self._requests.values())}
        self._requests.clear()
        for request in requests.values():
            request.is_closed = True
            request.mailbox.fail(
                type(error)(error.message, error.retryable, request.num_output_tokens)
            )
        wake_readers(request.mailbox for request in requests.values())

    def abort_all(self, error: HeadraceError) -> None:
        """End every stream that has a reader with an error, and abort what still runs of it."""
        requests = {id(request): request for request in list(self._requests.values())}
        left = [request for request in requests.values() if not request.is_closed]
        for request in left:
            request.mailbox.fail(error)
            self.close(request)
        wake_readers(request.mailbox for request in left)

    def _advance(self, request: OpenRequest, progress: RequestProgress, now_s: float) -> None:
        answer = request.answers[progress.request_id]
        if request.is_closed or answer.finish_reason is not None:
            self._stats.forget(progress.request_id)
            return
        if progress.finish_reason == "error":
            reason = progress.error or "The engine gave no reason."
            self._fail(request, reason, progress.is_callers_fault)
            return
        request.note(progress)
        if not progress.new_token_ids and progress.finish_reason is None:
            return
        delta = answer.append(progress)
        self._stats.observe_tokens(request, progress.request_id, len(delta.token_ids), now_s)
        if answer.finish_reason is not None:
            self._stats.forget(progress.request_id)
            self._stats.observe_answer_end(answer.finish_reason, answer.num_output_tokens)
            if progress.finish_reason is None:  # a stop string, which the engine cannot see
                self._abort(progress.request_id)
        request.mailbox.put(request.output(delta, now_s))
        if request.is_finished:
            self._stats.observe_request_end(request, now_s)

    def _fail(self, request: OpenRequest, reason: str, is_callers_fault: bool = False) -> None:
        request.is_prompt_scored = True
        error: HeadraceError = BackendError(reason, tokens_sent=request.num_output_tokens)
        if is_callers_fault:
            form = request.prepared.sampling.structured_outputs
            is_named = form is not None and form.param in reason
            param = form.param if form is not None and is_named else None
            error = RequestError(reason, param, "invalid_value")
        request.mailbox.fail(error)
        for answer_id in request.answers:
            self._stats.forget(answer_id)
        self.close(request)
