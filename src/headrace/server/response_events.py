"""ResponseWriter: an answer as it grows, and the events that say so.

In: outputs of a backend, one after the other, and how the answer ended. Out: events in their order
and without a gap in their numbers; at any time the response as it is now. Knows nothing of frames,
clients and stores.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Literal

import msgspec

from headrace.core.clock import Clock
from headrace.core.errors import BackendError
from headrace.core.output import CompletionDelta, RequestOutput
from headrace.core.responses import RUNNING, ResponseStatus
from headrace.core.usage import Usage
from headrace.server.error_responses import ErrorReply
from headrace.server.openai_payloads import ChatLogprob, check_delta, make_chat_logprobs
from headrace.server.response_payloads import (
    ErrorDetail,
    ErrorEvent,
    Event,
    IncompleteDetails,
    ItemEvent,
    ItemStatus,
    LifeEvent,
    MessageItem,
    OutputText,
    PartEvent,
    ResponseBody,
    ResponseFailure,
    TextDelta,
    TextDone,
    make_response_usage,
)

Events = list[Event]

_UNEXPLAINED = "The model ended an answer without saying why."


class ResponseWriter:
    """Owns one response: `begin`, `add` each output, then `end` and `final`, or `fail` or `cancel`.

    `body` is the response as it was asked for; `num_logprobs` None shows no log-probabilities.
    """

    def __init__(self, body: ResponseBody, num_logprobs: int | None, clock: Clock) -> None:
        self.body = body
        self._num_logprobs, self._clock = num_logprobs, clock
        self._num_events = 0
        self._usage: Usage | None = None
        self._message: _OpenMessage | None = None
        self._last: CompletionDelta | None = None

    @property
    def status(self) -> ResponseStatus:
        return self.body.status

    def snapshot(self) -> ResponseBody:
        """The response with all that it has so far."""
        if self.status not in RUNNING or self._message is None:
            return self.body
        return self._with_output("in_progress")

    def begin(self) -> Events:
        """The events before any output; one in the background waits in a queue first."""
        events = [self._life("response.created")]
        if self.status == "queued":
            return [*events, self._life("response.queued")]
        return [*events, self._life("response.in_progress")]

    def add(self, output: RequestOutput) -> Events:
        """Take an output. Raises: BackendError when the backend gave up on the answer."""
        events = self._leave_queue()
        self._usage = output.usage
        for delta in output.deltas:
            check_delta(delta)
            logprobs = self._logprobs(delta)
            if self._message is None:
                events += self._open_message()
            if delta.text or logprobs:
                events.append(self._add_text(delta.text, logprobs))
            if delta.finish_reason is not None:
                self._last = delta
        return events

    def end(self) -> Events:
        """Complete the response as its last output says; `final` is still to be told.

        Raises: BackendError when no output said why the answer ended.
        """
        if self._last is None or self._last.finish_reason is None:
            raise BackendError(_UNEXPLAINED)
        is_cut = self._last.finish_reason == "length"
        events = self._close_message("incomplete" if is_cut else "completed")
        if is_cut:
            cut = IncompleteDetails("max_output_tokens")
            self.body = msgspec.structs.replace(
                self._with_output("incomplete"), status="incomplete", incomplete_details=cut
            )
        else:
            self.body = msgspec.structs.replace(
                self._with_output("completed"),
                status="completed",
                completed_at=int(self._clock.unix_s()),
            )
        return events

    def final(self) -> Events:
        """The last event of a response that has ended. A cancelled one has none of its name."""
        kind = "incomplete" if self.status == "cancelled" else self.status
        return [self._life(f"response.{kind}")]

    def failed(self, error: ErrorReply) -> ResponseBody:
        """The response if it ended now with an error; what was said before it stays."""
        code: Literal["rate_limit_exceeded", "server_error"] = (
            "rate_limit_exceeded" if error.status == 429 else "server_error"
        )
        return msgspec.structs.replace(
            self._with_output("incomplete"),
            status="failed",
            error=ResponseFailure(code, error.message),
        )

    def fail(self, error: ErrorReply) -> Events:
        """End the response with an error, unless it has ended."""
        if self.status not in RUNNING:
            return []
        self.body = self.failed(error)
        detail = ErrorDetail(error.type, error.code, error.message, error.param)
        return [
            ErrorEvent(self._next(), detail, error.code, error.message, error.param),
            *self.final(),
        ]

    def cancel(self) -> Events:
        """End the response because its caller wants no more of it, unless it has ended."""
        if self.status not in RUNNING:
            return []
        self.body = msgspec.structs.replace(self._with_output("incomplete"), status="cancelled")
        return self.final()

    def forget_storing(self) -> None:
        """Say that the response is not kept after all."""
        self.body = msgspec.structs.replace(self.body, store=False)

    def _leave_queue(self) -> Events:
        if self.status != "queued":
            return []
        self.body = msgspec.structs.replace(self.body, status="in_progress")
        return [self._life("response.in_progress")]

    def _with_output(self, status: ItemStatus) -> ResponseBody:
        message = self._message
        return msgspec.structs.replace(
            self.body,
            output=() if message is None else (message.item(status),),
            usage=None if self._usage is None else make_response_usage(self._usage),
        )

    def _open_message(self) -> Events:
        self._message = message = _OpenMessage(self._num_logprobs is not None)
        empty = MessageItem(message.id, "in_progress", ())
        return [
            ItemEvent("response.output_item.added", self._next(), 0, empty),
            PartEvent(
                "response.content_part.added", self._next(), message.id, 0, 0, OutputText("")
            ),
        ]

    def _add_text(self, text: str, logprobs: Sequence[ChatLogprob]) -> Event:
        message = self._opened()
        message.texts.append(text)
        message.logprobs.extend(logprobs)
        return TextDelta(self._next(), message.id, 0, 0, text, logprobs)

    def _close_message(self, status: ItemStatus) -> Events:
        message = self._opened()
        part, item = message.part(), message.item(status)
        return [
            TextDone(self._next(), message.id, 0, 0, part.text, message.logprobs),
            PartEvent("response.content_part.done", self._next(), message.id, 0, 0, part),
            ItemEvent("response.output_item.done", self._next(), 0, item),
        ]

    def _opened(self) -> _OpenMessage:
        if self._message is None:
            raise BackendError(_UNEXPLAINED)
        return self._message

    def _logprobs(self, delta: CompletionDelta) -> Sequence[ChatLogprob]:
        if self._num_logprobs is None or delta.logprobs is None:
            return ()
        return make_chat_logprobs(delta.logprobs, self._num_logprobs, False).content

    def _life(self, kind: str) -> LifeEvent:
        return LifeEvent(kind, self._next(), self.body)

    def _next(self) -> int:
        number = self._num_events
        self._num_events += 1
        return number


class _OpenMessage:
    """The message that is being written."""

    def __init__(self, has_logprobs: bool) -> None:
        self.id = f"msg_{uuid.uuid4().hex}"
        self.texts: list[str] = []
        self.logprobs: list[ChatLogprob] = []
        self._has_logprobs = has_logprobs

    def part(self) -> OutputText:
        text = "".join(self.texts)
        return OutputText(text, logprobs=self.logprobs) if self._has_logprobs else OutputText(text)

    def item(self, status: ItemStatus) -> MessageItem:
        return MessageItem(self.id, status, (self.part(),))
