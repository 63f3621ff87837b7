"""Output items as they grow: a message, reasoning, a call of a function; each says it in events.

In: what an item gains, and a source of numbers for events. Out: events from the first to the last
of the item, and the item as it is. Knows nothing of other items.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from msgspec import UNSET

from headrace.server.openai_payloads import ChatLogprob
from headrace.server.response_items import seal
from headrace.server.response_payloads import (
    ArgumentsDelta,
    ArgumentsDone,
    Event,
    FunctionCallItem,
    ItemEvent,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    PartEvent,
    ReasoningDelta,
    ReasoningDone,
    ReasoningItem,
    ReasoningText,
    TextDelta,
    TextDone,
)

Next = Callable[[], int]


class OpenMessage:
    """A message that is being written; `at` is its place in the output."""

    def __init__(self, at: int, has_logprobs: bool, number: Next) -> None:
        self.id, self._at, self._number = f"msg_{uuid.uuid4().hex}", at, number
        self._has_logprobs = has_logprobs
        self._texts: list[str] = []
        self._logprobs: list[ChatLogprob] = []

    def item(self, status: ItemStatus) -> OutputItem:
        return MessageItem(self.id, status, (self._part(),))

    def begin(self) -> list[Event]:
        empty, part = MessageItem(self.id, "in_progress", ()), OutputText("")
        return [
            ItemEvent("response.output_item.added", self._number(), self._at, empty),
            self._part_event("added", part),
        ]

    def gain(self, text: str, logprobs: Sequence[ChatLogprob]) -> list[Event]:
        self._texts.append(text)
        self._logprobs.extend(logprobs)
        return [TextDelta(self._number(), self.id, self._at, 0, text, logprobs)]

    def end(self, status: ItemStatus) -> list[Event]:
        part = self._part()
        return [
            TextDone(self._number(), self.id, self._at, 0, part.text, self._logprobs),
            self._part_event("done", part),
            ItemEvent("response.output_item.done", self._number(), self._at, self.item(status)),
        ]

    def _part(self) -> OutputText:
        text = "".join(self._texts)
        return OutputText(text, logprobs=self._logprobs) if self._has_logprobs else OutputText(text)

    def _part_event(self, what: str, part: OutputText) -> Event:
        kind = f"response.content_part.{what}"
        return PartEvent(kind, self._number(), self.id, self._at, 0, part)


class OpenReasoning:
    """Reasoning that is being written."""

    def __init__(self, at: int, is_sealed: bool, number: Next) -> None:
        self.id, self._at, self._number = f"rs_{uuid.uuid4().hex}", at, number
        self._is_sealed = is_sealed
        self._texts: list[str] = []

    def item(self, status: ItemStatus) -> OutputItem:
        part = self._part()
        sealed = seal(part.text) if self._is_sealed else UNSET
        return ReasoningItem(self.id, status, (part,), encrypted_content=sealed)

    def begin(self) -> list[Event]:
        empty, part = ReasoningItem(self.id, "in_progress", ()), ReasoningText("")
        return [
            ItemEvent("response.output_item.added", self._number(), self._at, empty),
            self._part_event("added", part),
        ]

    def gain(self, text: str) -> list[Event]:
        self._texts.append(text)
        return [ReasoningDelta(self._number(), self.id, self._at, 0, text)]

    def end(self, status: ItemStatus) -> list[Event]:
        part = self._part()
        return [
            ReasoningDone(self._number(), self.id, self._at, 0, part.text),
            self._part_event("done", part),
            ItemEvent("response.output_item.done", self._number(), self._at, self.item(status)),
        ]

    def _part(self) -> ReasoningText:
        return ReasoningText("".join(self._texts))

    def _part_event(self, what: str, part: ReasoningText) -> Event:
        kind = f"response.content_part.{what}"
        return PartEvent(kind, self._number(), self.id, self._at, 0, part)


class OpenCall:
    """A call of a function, the answer's number `index`, whose arguments are being written."""

    def __init__(self, at: int, index: int, call_id: str, name: str, number: Next) -> None:
        self.id, self._at, self._number = f"fc_{uuid.uuid4().hex}", at, number
        self.index, self._call_id, self._name = index, call_id, name
        self._arguments: list[str] = []

    def item(self, status: ItemStatus) -> OutputItem:
        arguments = "".join(self._arguments)
        return FunctionCallItem(self.id, status, self._call_id, self._name, arguments)

    def begin(self) -> list[Event]:
        item = self.item("in_progress")
        return [ItemEvent("response.output_item.added", self._number(), self._at, item)]

    def gain(self, arguments: str) -> list[Event]:
        if not arguments:
            return []
        self._arguments.append(arguments)
        return [ArgumentsDelta(self._number(), self.id, self._at, arguments)]

    def end(self, status: ItemStatus) -> list[Event]:
        arguments = "".join(self._arguments)
        return [
            ArgumentsDone(self._number(), self.id, self._at, self._name, arguments),
            ItemEvent("response.output_item.done", self._number(), self._at, self.item(status)),
        ]


OpenItem = OpenMessage | OpenReasoning | OpenCall
