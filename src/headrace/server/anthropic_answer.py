"""MessageAnswer: an answer as it grows, in content blocks.

In: outputs of a request. Out: events whose parts join to the message, and the message itself. A
block ends where another begins: reasoning, text, then each call. Knows neither HTTP nor the body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headrace.core.frozen import frozen
from headrace.core.output import CompletionDelta, RequestOutput, ToolCallDelta
from headrace.core.usage import Usage
from headrace.server.answer_form import unexplained_end
from headrace.server.anthropic_payloads import (
    BlockDelta,
    BlockStart,
    BlockStop,
    ContentBlock,
    Delta,
    Event,
    InputJsonDelta,
    MessageBody,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    SignatureDelta,
    StopDelta,
    StopReason,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
    make_usage,
)
from headrace.server.anthropic_schema import Shown
from headrace.server.openai_payloads import check_delta

_SERVICE_TIER = "standard"


@frozen
class AnswerWords:
    """What an answer says of itself. Of hidden thinking nothing is shown; omitted has no text.

    `members` gives what it carries beside that, once it has ended.
    """

    id: str
    model: str
    max_tokens: int
    thinking: Shown = "hidden"
    members: Callable[[], Mapping[str, Any]] = dict


@dataclass(slots=True)
class MessageAnswer:
    """Grows by `add`; `end` or `body` when nothing more comes."""

    words: AnswerWords
    usage: Usage = field(default_factory=Usage)
    has_begun: bool = False
    _last: CompletionDelta | None = None
    _blocks: list[tuple[ContentBlock, list[str]]] = field(default_factory=list)
    _open: object = None

    def add(self, output: RequestOutput) -> Iterator[Event]:
        """What an output adds to the message. Mutates: self."""
        self.usage = output.usage
        if not self.has_begun:
            self.has_begun = True
            yield MessageStart(
                MessageBody(self.words.id, self.words.model, [], self._whole_usage())
            )
        for delta in output.deltas:
            check_delta(delta)
            if delta.reasoning and self.words.thinking != "hidden":
                yield from self._think(delta.reasoning)
            if delta.text:
                yield from self._grow("text", TextBlock(""), delta.text, TextDelta(delta.text))
            for call in delta.tool_calls:
                yield from self._call(call)
            if delta.finish_reason is not None:
                self._last = delta

    def end(self) -> Iterator[Event]:
        """The events after the last output. Raises: BackendError when nothing ended the answer."""
        reason, stop = self.stop()
        yield from self._close()
        members = self.words.members()
        yield MessageDelta(StopDelta(reason, stop), make_usage(self.usage), **members)
        yield MessageStop()

    def body(self) -> MessageBody:
        """The whole message. Raises: BackendError when nothing ended the answer."""
        reason, stop = self.stop()
        content = [self._whole(block, "".join(texts)) for block, texts in self._blocks]
        usage = self._whole_usage()
        words = self.words
        return MessageBody(words.id, words.model, content, usage, reason, stop, **words.members())

    def stop(self) -> tuple[StopReason, str | None]:
        """Why the answer ended, and the stop sequence that did it."""
        if self._last is None:
            raise unexplained_end()
        if self._last.finish_reason == "tool_calls":
            return "tool_use", None
        if self._last.finish_reason == "length":
            is_full = self.usage.output_tokens < self.words.max_tokens
            return ("model_context_window_exceeded" if is_full else "max_tokens"), None
        if isinstance(self._last.stop_reason, str):
            return "stop_sequence", self._last.stop_reason
        return "end_turn", None

    def _think(self, text: str) -> Iterator[Event]:
        if self.words.thinking == "omitted":
            text = ""
        delta = ThinkingDelta(text) if text else None
        yield from self._grow("thinking", ThinkingBlock(""), text, delta)

    def _call(self, call: ToolCallDelta) -> Iterator[Event]:
        block = ToolUseBlock(call.id or "", call.name or "", {})
        text = call.arguments
        yield from self._grow(call.index, block, text, InputJsonDelta(text) if text else None)

    def _grow(
        self, key: object, block: ContentBlock, text: str, delta: Delta | None
    ) -> Iterator[Event]:
        """Add to the open block, or end it and begin another. Mutates: self."""
        if key != self._open:
            yield from self._close()
            self._open = key
            self._blocks.append((block, []))
            yield BlockStart(len(self._blocks) - 1, block)
        self._blocks[-1][1].append(text)
        if delta is not None:
            yield BlockDelta(len(self._blocks) - 1, delta)

    def _close(self) -> Iterator[Event]:
        if self._open is None:
            return
        index = len(self._blocks) - 1
        if self._open == "thinking":
            yield BlockDelta(index, SignatureDelta(self.words.id))
        self._open = None
        yield BlockStop(index)

    def _whole(self, block: ContentBlock, text: str) -> ContentBlock:
        if isinstance(block, TextBlock):
            return TextBlock(text)
        if isinstance(block, ThinkingBlock):
            return ThinkingBlock(text, self.words.id)
        return ToolUseBlock(block.id, block.name, _read_input(text))

    def _whole_usage(self) -> MessageUsage:
        return make_usage(self.usage, _SERVICE_TIER)


def _read_input(text: str) -> dict[str, Any]:
    """A call's input as an object; what is none is wrapped.

    Source: Anthropic's guide to fine-grained tool streaming wraps broken input so.
    """
    if not text.strip():
        return {}
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": text}
