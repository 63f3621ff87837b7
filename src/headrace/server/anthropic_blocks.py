"""Messages in content blocks, as `core` sees them.

In: `system` and `messages` of an Anthropic body. Out: one message per turn, or per tool result.
Turns of one role that follow each other are one turn. A kind of block that the model cannot take is
refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import Field

from headrace.core.errors import InvalidParameter, RequestError
from headrace.core.message import Message, ToolCall
from headrace.server.anthropic_schema import PromptFields, check_cache_control
from headrace.server.generation_schema import Schema, Strict, allowed, unknown_names, validate

_CONTENT = "a string or a list of content blocks"
_KINDS = {
    "system": ("text",),
    "user": ("text", "tool_result"),
    "assistant": ("text", "thinking", "tool_use"),
    "tool_result": ("text",),
}


class TurnFields(Strict):
    role: Literal["user", "assistant", "system"] = Field(description="user, assistant or system")
    content: str | list[Any] = Field(description=_CONTENT)


class TextBlock(Strict):
    type: str = Field(description="the kind of the block")
    text: str = Field(description="a string")


class ThinkingBlock(Strict):
    type: str = Field(description="the kind of the block")
    thinking: str = Field(description="a string")
    signature: str | None = allowed("a string")


class ToolUseBlock(Strict):
    type: str = Field(description="the kind of the block")
    id: str = Field(description="the id of the call")
    name: str = Field(description="the name of the tool that was called")
    input: dict[str, Any] = Field(description="an object")


class ToolResultBlock(Strict):
    type: str = Field(description="the kind of the block")
    tool_use_id: str = Field(description="the id of a tool_use block in an earlier message")
    content: str | list[Any] | None = allowed("a string or a list of text blocks")
    is_error: bool | None = allowed("true or false")


# Keys that answers carry and that change nothing when they are sent back.
_ECHOED = ("cache_control", "citations", "caller", "toolset_name", "parsed_output")


@dataclass(slots=True)
class Conversation:
    """A body's messages. `is_continued`: the last is the beginning of the answer."""

    messages: list[Message] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    is_continued: bool = False
    _tool_names: dict[str, str] = field(default_factory=dict)

    def add_turn(self, role: str, content: str | list[Any], path: str) -> None:
        """Take a message whose content stands at `path`; its blocks stay in their order.

        Raises: RequestError that names the block and the field.
        """
        if isinstance(content, str):
            self.messages.append(Message(role, content))
            return
        if not content and role != "assistant":
            raise InvalidParameter(path, content, "at least one content block")
        if role == "assistant":
            self.messages.append(self._read_assistant(content, path))
            return
        for at, kind, block in _kinds_of(content, role, path):
            if kind == "tool_result":
                self.messages.append(self._read_result(block, at))
            else:
                self.messages.append(Message(role, self._read_text(block, at)))

    def finish(self) -> None:
        """Make one turn of those that are one, and see what the last is.

        Raises: RequestError for calls without their results.
        """
        self.messages = [_fuse(parts) for parts in _turns(self.messages)]
        last = self.messages[-1]
        if last.role != "assistant":
            return
        if last.tool_calls:
            raise RequestError(
                "messages ends with a tool_use block. Answer it with a user message that has its "
                "tool_result.",
                "messages",
                "invalid_value",
            )
        if last.content:
            self.is_continued = True
        else:
            self.messages.pop()

    def _read_assistant(self, blocks: Sequence[Any], prefix: str) -> Message:
        texts, thoughts, calls = [], [], []
        for path, kind, block in _kinds_of(blocks, "assistant", prefix):
            if kind == "text":
                texts.append(self._read_text(block, path))
            elif kind == "thinking":
                thoughts.append(self._validate(ThinkingBlock, block, path).thinking)
            else:
                use = self._validate(ToolUseBlock, block, path)
                self._tool_names[use.id] = use.name
                calls.append(ToolCall(use.id, use.name, json.dumps(use.input, ensure_ascii=False)))
        content = _join(texts)
        return Message(
            "assistant",
            "" if content is None and not calls else content,
            tool_calls=tuple(calls),
            reasoning_content=_join(thoughts),
        )

    def _read_result(self, block: Mapping[str, Any], path: str) -> Message:
        result = self._validate(ToolResultBlock, block, path)
        name = self._tool_names.get(result.tool_use_id)
        if name is None:
            raise InvalidParameter(
                f"{path}.tool_use_id",
                result.tool_use_id,
                "the id of a tool_use block in an earlier message",
            )
        content = result.content
        if isinstance(content, list):
            parts = _kinds_of(content, "tool_result", f"{path}.content")
            content = _join([self._read_text(part, at) for at, _, part in parts])
        text = content or ""
        # Templates know no failed calls, so that the text has to say it.
        text = f"Error: {text}" if result.is_error else text
        return Message("tool", text, name=name, tool_call_id=result.tool_use_id)

    def _read_text(self, block: Mapping[str, Any], path: str) -> str:
        return self._validate(TextBlock, block, path).text

    def _validate(self, schema: type[Schema], block: Mapping[str, Any], path: str) -> Schema:
        fields = validate(schema, block, f"{path}.")
        self.unknown += check_cache_control(block.get("cache_control"), f"{path}.")
        self.unknown += unknown_names(fields, _ECHOED, f"{path}.")
        return fields


def parse_conversation(fields: PromptFields) -> Conversation:
    """Raises: RequestError that names the message, the block and the field."""
    conversation = Conversation()
    if fields.system:
        conversation.add_turn("system", fields.system, "system")
    if not fields.messages:
        raise InvalidParameter("messages", [], "a list of at least one message object")
    for index, body in enumerate(fields.messages):
        prefix = f"messages[{index}]."
        turn = validate(TurnFields, body, prefix)
        conversation.unknown += unknown_names(turn, (), prefix)
        conversation.add_turn(turn.role, turn.content, f"{prefix}content")
    conversation.finish()
    return conversation


def _kinds_of(
    blocks: Sequence[Any], place: str, prefix: str
) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(path, type, block) of each block. Raises: InvalidParameter."""
    found = []
    for index, block in enumerate(blocks):
        path = f"{prefix}[{index}]"
        if not isinstance(block, Mapping):
            raise InvalidParameter(path, block, 'an object such as {"type": "text", "text": "..."}')
        kind = block.get("type")
        if kind not in _KINDS[place]:
            kinds = _KINDS[place]
            raise InvalidParameter(
                f"{path}.type", kind, " or ".join(kinds), "This model takes text only."
            )
        found.append((path, str(kind), block))
    return found


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Neighbours of one role; the result of a call is a turn, and calls end one."""
    turns: list[list[Message]] = []
    for message in messages:
        last = turns[-1][-1] if turns else None
        is_same = last is not None and last.role == message.role != "tool" and not last.tool_calls
        if is_same:
            turns[-1].append(message)
        else:
            turns.append([message])
    return turns


def _fuse(parts: Sequence[Message]) -> Message:
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[-1],
        content=_join([part.content for part in parts]),
        reasoning_content=_join([part.reasoning_content for part in parts]),
    )


def _join(texts: Sequence[str | None]) -> str | None:
    """Texts of one turn, each on lines of its own; None when there are none."""
    known = [text for text in texts if text is not None]
    return "\n".join(known) if known else None
