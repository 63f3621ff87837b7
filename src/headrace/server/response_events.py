"""ResponseWriter: an answer as it grows, and the events that say so.

In: outputs of a backend, one after the other, and how the answer ended. Out: events in their order
and without a gap in their numbers; at any time the response as it is now. Knows nothing of frames,
clients and stores.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from headrace.core.clock import Clock
from headrace.core.errors import BackendError
from headrace.core.frozen import frozen
from headrace.core.output import CompletionDelta, RequestOutput, ToolCallDelta
from headrace.core.responses import RUNNING, ResponseStatus
from headrace.core.usage import Usage
from headrace.server.error_responses import ErrorReply
from headrace.server.openai_payloads import ChatLogprob, check_delta, make_chat_logprobs
from headrace.server.response_item_events import OpenCall, OpenItem, OpenMessage, OpenReasoning
from headrace.server.response_payloads import (
    ErrorDetail,
    ErrorEvent,
    Event,
    IncompleteDetails,
    ItemStatus,
    LifeEvent,
    OutputItem,
    ResponseBody,
    ResponseFailure,
    make_response_usage,
)

Events = list[Event]

_UNEXPLAINED = "The model ended an answer without saying why."


@frozen
class Shown:
    """What a response shows besides its text.

    Fields:
        num_logprobs: alternatives of each token; None shows no log-probabilities.
        reasoning: whether it shows any.
        sealed_reasoning: the same also as one opaque word.
        members: what the whole response carries beside its answer, once that has ended.
    """

    num_logprobs: int | None = None
    reasoning: bool = True
    sealed_reasoning: bool = False
    members: Callable[[], Mapping[str, Any]] = dict


class ResponseWriter:
    """Owns one response: `begin`, `add` each output, then `end` and `final`, or `fail` or `cancel`.

    `body` is the response as it was asked for.
    """

    def __init__(self, body: ResponseBody, shown: Shown, clock: Clock) -> None:
        self.body = body
        self._shown, self._clock = shown, clock
        self._num_events = 0
        self._usage: Usage | None = None
        self._closed: list[OutputItem] = []
        self._open: OpenItem | None = None
        # Of tokens without a text of their own, until there is an item to show them in.
        self._held: list[ChatLogprob] = []
        self._last: CompletionDelta | None = None

    @property
    def status(self) -> ResponseStatus:
        return self.body.status

    def snapshot(self) -> ResponseBody:
        """The response with all that it has so far."""
        return self.body if self.status not in RUNNING else self._with_output("in_progress")

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
            events += self._add_delta(delta)
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
        events: Events = []
        if self._open is None and not self._closed:
            # An answer without anything is an empty message.
            events += self._open_message() + self._add_text("")
        status: Literal["completed", "incomplete"] = "incomplete" if is_cut else "completed"
        events += self._close(status)
        self.body = msgspec.structs.replace(
            self._with_output(status),
            status=status,
            incomplete_details=IncompleteDetails("max_output_tokens") if is_cut else None,
            completed_at=None if is_cut else int(self._clock.unix_s()),
            **self._shown.members(),
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
        """`status` is that of the item that is still open."""
        still_open = () if self._open is None else (self._open.item(status),)
        return msgspec.structs.replace(
            self.body,
            output=(*self._closed, *still_open),
            usage=None if self._usage is None else make_response_usage(self._usage),
        )

    def _add_delta(self, delta: CompletionDelta) -> Events:
        """What an answer gains comes in the order reasoning, text, calls."""
        events: Events = []
        if delta.reasoning and self._shown.reasoning:
            reasoning = self._open
            if not isinstance(reasoning, OpenReasoning):
                is_sealed = self._shown.sealed_reasoning
                reasoning = OpenReasoning(self._place(), is_sealed, self._next)
                events += self._switch_to(reasoning)
            events += reasoning.gain(delta.reasoning)
        self._held += self._logprobs(delta)
        if delta.text and not isinstance(self._open, OpenMessage):
            events += self._open_message()
        events += self._add_text(delta.text)
        for call in delta.tool_calls:
            events += self._add_call(call)
        if delta.reasoning or delta.tool_calls:
            self._held = []
        return events

    def _add_text(self, text: str) -> Events:
        message, held = self._open, self._held
        if not isinstance(message, OpenMessage) or not (text or held):
            return []
        self._held = []
        return message.gain(text, held)

    def _add_call(self, delta: ToolCallDelta) -> Events:
        events: Events = []
        call = self._open
        if not isinstance(call, OpenCall) or call.index != delta.index:
            call_id, name = delta.id or f"call_{uuid.uuid4().hex}", delta.name or ""
            call = OpenCall(self._place(), delta.index, call_id, name, self._next)
            events += self._switch_to(call)
        return events + call.gain(delta.arguments)

    def _open_message(self) -> Events:
        has_logprobs = self._shown.num_logprobs is not None
        return self._switch_to(OpenMessage(self._place(), has_logprobs, self._next))

    def _place(self) -> int:
        """Of the next item in the output."""
        return len(self._closed) + (self._open is not None)

    def _switch_to(self, item: OpenItem) -> Events:
        events = self._close("completed")
        self._open = item
        return events + item.begin()

    def _close(self, status: ItemStatus) -> Events:
        item, self._open = self._open, None
        if item is None:
            return []
        self._closed.append(item.item(status))
        return item.end(status)

    def _logprobs(self, delta: CompletionDelta) -> Sequence[ChatLogprob]:
        if self._shown.num_logprobs is None or delta.logprobs is None:
            return ()
        return make_chat_logprobs(delta.logprobs, self._shown.num_logprobs, False).content

    def _life(self, kind: str) -> LifeEvent:
        return LifeEvent(kind, self._next(), self.body)

    def _next(self) -> int:
        number = self._num_events
        self._num_events += 1
        return number
