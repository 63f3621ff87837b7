"""Items: what a response is asked about, as they are sent, kept and shown to the model.

In: the `input` of a body, items of responses before it. Out: items in one plain form with ids, and
the chat messages they stand for. Whole old turns can be left out; nothing else is ever cut.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from headrace.core.errors import InvalidParameter, RequestError, UnsupportedParameter
from headrace.core.frozen import frozen
from headrace.core.message import Message, ToolCall
from headrace.server.generation_schema import Strict, allowed, unknown_names, validate

Item = dict[str, Any]

_ROLES = ("user", "assistant", "system", "developer")
_TYPES = "message, function_call, function_call_output or reasoning"
_TEXT_PARTS = ("input_text", "output_text", "refusal")
_OTHER_PARTS = ("input_image", "input_file", "input_audio", "computer_screenshot")
# Made by tools that run at OpenAI, or by other machinery of theirs.
_FOREIGN_TYPES = {
    "item_reference": "send the item itself, or continue with previous_response_id.",
    "custom_tool_call": "only function tools are served.",
    "custom_tool_call_output": "only function tools are served.",
    "compaction": "conversations are not compacted. Send the items themselves.",
}
_FOREIGN_ENDINGS = ("_call", "_call_output", "_tools", "_approval_request", "_approval_response")
_SEAL = "hr1."
# Keys of items that come back as they were sent out, and change nothing.
_SHOWN = ("annotations", "logprobs", "type", "encrypted_content", "summary", "status", "id")


class MessageFields(Strict):
    role: str = Field(description=f"one of {', '.join(_ROLES)}")
    content: str | list[Any] = Field(description="a string or a list of text parts")
    id: str | None = allowed("a string")
    phase: str | None = allowed("commentary or final_answer")


class FunctionCallFields(Strict):
    call_id: str = Field(description="the id of the call, a string", min_length=1)
    name: str = Field(description="the name of the function that was called", min_length=1)
    arguments: str = Field(description="the arguments as JSON text in a string")
    id: str | None = allowed("a string")


class FunctionOutputFields(Strict):
    call_id: str = Field(description="the id of the call it answers, a string", min_length=1)
    output: str | list[Any] = Field(description="a string or a list of text parts")
    id: str | None = allowed("a string")


class ReasoningFields(Strict):
    content: list[Any] | None = allowed("a list of reasoning_text parts")
    id: str | None = allowed("a string")


@frozen
class Turns:
    """Messages in the order they are shown, and how many old items were left out."""

    items: tuple[Item, ...]
    num_dropped: int = 0

    def without_oldest(self, num_chars: int) -> Turns | None:
        """Leave out whole turns, the oldest first, until `num_chars` of text are gone.

        A turn begins with a message of the user. System messages stay, and so does the last turn.
        None: nothing more can go.
        """
        begins = [at for at, item in enumerate(self.items) if item.get("role") == "user"]
        num_gone, end = 0, 0
        for end in begins[1:]:
            gone = [item for item in self.items[:end] if not _is_instruction(item)]
            num_gone = sum(_num_chars(item) for item in gone)
            if gone and num_gone >= num_chars:
                break
        kept = tuple(item for item in self.items[:end] if _is_instruction(item))
        left = kept + self.items[end:]
        num_dropped = len(self.items) - len(left)
        return (
            replace(self, items=left, num_dropped=self.num_dropped + num_dropped)
            if (num_dropped)
            else None
        )


def parse_input(given: object) -> tuple[tuple[Item, ...], list[str]]:
    """Items in the plain form, each with an id, and keys that nobody defines.

    Raises: RequestError naming the item and the field.
    """
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise InvalidParameter("input", given, "a string, or a list of at least one item")
    items, unknown = [], []
    for index, body in enumerate(given):
        prefix = f"input[{index}]"
        if not isinstance(body, Mapping):
            raise InvalidParameter(prefix, body, "an item: an object")
        item, names = _parse_item(body, f"{prefix}.")
        items.append(item)
        unknown += names
    return tuple(items), unknown


def check_calls(items: Sequence[Item], first_new: int) -> None:
    """Raises: InvalidParameter for the output of a call that no item before it makes."""
    calls: set[str] = set()
    for index, item in enumerate(items):
        if item["type"] == "function_call":
            calls.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in calls:
            raise InvalidParameter(
                f"input[{max(0, index - first_new)}].call_id",
                item["call_id"],
                "the call_id of a function_call before it",
                "Send that item too, or continue with previous_response_id.",
            )


def make_messages(instructions: str | None, items: Sequence[Item]) -> tuple[Message, ...]:
    """The chat that the items stand for: a call belongs to the message of the assistant before it,
    and reasoning to the one after it.
    """
    messages = [Message("system", instructions)] if instructions is not None else []
    reasoning: str | None = None
    for item in items:
        kind, last = item["type"], messages[-1] if messages else None
        if kind == "reasoning":
            reasoning = _reasoning_text(item) or reasoning
        elif kind == "function_call_output":
            messages.append(Message("tool", _text(item["output"]), tool_call_id=item["call_id"]))
        elif kind == "function_call":
            call = ToolCall(item["call_id"], item["name"], item["arguments"])
            if last is None or last.role != "assistant" or reasoning is not None:
                last = Message("assistant", reasoning_content=reasoning)
                messages.append(last)
            messages[-1] = replace(last, tool_calls=(*last.tool_calls, call))
            reasoning = None
        else:
            role = "system" if item["role"] == "developer" else item["role"]
            content = _text(item["content"])
            if role == "assistant":
                messages.append(Message(role, content, reasoning_content=reasoning))
                reasoning = None
            else:
                messages.append(Message(role, content))
    return tuple(messages)


def seal(text: str) -> str:
    """Reasoning as one opaque word, for clients that send nothing else back: coded, not secret."""
    return _SEAL + base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode()


def unseal(word: object) -> str | None:
    """The reasoning of a word that `seal` made; None for any other."""
    if not isinstance(word, str) or not word.startswith(_SEAL):
        return None
    try:
        return base64.b64decode(word[len(_SEAL) :], b"-_", validate=True).decode()
    except ValueError:
        return None


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _parse_item(body: Mapping[str, Any], prefix: str) -> tuple[Item, list[str]]:
    kind = body.get("type", "message")
    if kind == "message":
        return _parse_message(body, prefix)
    if kind == "function_call":
        call = validate(FunctionCallFields, body, prefix)
        item = {
            "type": kind,
            "id": call.id or new_id("fc"),
            "call_id": call.call_id,
            "name": call.name,
            "arguments": call.arguments,
            "status": "completed",
        }
        return item, unknown_names(call, _SHOWN, prefix)
    if kind == "function_call_output":
        output = validate(FunctionOutputFields, body, prefix)
        item = {
            "type": kind,
            "id": output.id or new_id("fc"),
            "call_id": output.call_id,
            "output": _parse_parts(output.output, f"{prefix}output", "input_text"),
            "status": "completed",
        }
        return item, unknown_names(output, _SHOWN, prefix)
    if kind == "reasoning":
        return _parse_reasoning(body, prefix)
    if isinstance(kind, str) and kind in _FOREIGN_TYPES:
        raise UnsupportedParameter(f"{prefix}type", f"{kind}: {_FOREIGN_TYPES[kind]}")
    if isinstance(kind, str) and kind.endswith(_FOREIGN_ENDINGS):
        reason = f"{kind} belongs to a hosted tool, and none is served. Leave the item out."
        raise UnsupportedParameter(f"{prefix}type", reason)
    raise InvalidParameter(f"{prefix}type", kind, _TYPES)


def _parse_message(body: Mapping[str, Any], prefix: str) -> tuple[Item, list[str]]:
    fields = validate(MessageFields, body, prefix)
    if fields.role not in _ROLES:
        raise InvalidParameter(f"{prefix}role", fields.role, f"one of {', '.join(_ROLES)}")
    part_type = "output_text" if fields.role == "assistant" else "input_text"
    item = {
        "type": "message",
        "id": fields.id or new_id("msg"),
        "status": "completed",
        "role": fields.role,
        "content": _parse_parts(fields.content, f"{prefix}content", part_type, is_list=True),
    }
    if fields.phase is not None:
        item["phase"] = fields.phase
    return item, unknown_names(fields, _SHOWN, prefix)


def _parse_reasoning(body: Mapping[str, Any], prefix: str) -> tuple[Item, list[str]]:
    fields = validate(ReasoningFields, body, prefix)
    item: Item = {"type": "reasoning", "id": fields.id or new_id("rs"), "summary": []}
    parts = []
    for index, part in enumerate(fields.content or ()):
        where = f"{prefix}content[{index}]"
        text = part.get("text") if isinstance(part, Mapping) else None
        if not isinstance(text, str):
            raise InvalidParameter(where, part, 'an object {"type": "reasoning_text", "text": ...}')
        parts.append({"type": "reasoning_text", "text": text})
    unread = []
    if not parts and body.get("encrypted_content"):
        text = unseal(body["encrypted_content"])
        parts = [] if text is None else [{"type": "reasoning_text", "text": text}]
        unread = [f"{prefix}encrypted_content"] if text is None else []
    return {**item, "content": parts}, unknown_names(fields, _SHOWN, prefix) + unread


def _parse_parts(
    content: str | list[Any], path: str, part_type: str, is_list: bool = False
) -> str | list[Item]:
    if isinstance(content, str):
        return [_part(part_type, content)] if is_list else content
    return [_parse_part(part, f"{path}[{index}]", part_type) for index, part in enumerate(content)]


def _parse_part(part: object, path: str, part_type: str) -> Item:
    if not isinstance(part, Mapping):
        raise InvalidParameter(path, part, f'an object such as {{"type": "{part_type}", ...}}')
    kind = part.get("type")
    if kind in _OTHER_PARTS:
        raise UnsupportedParameter(f"{path}.type", f"{kind}: this model takes text only.")
    if kind not in _TEXT_PARTS:
        raise InvalidParameter(f"{path}.type", kind, f"{part_type} or refusal")
    key = "refusal" if kind == "refusal" else "text"
    text = part.get(key)
    if text is None:
        field = f"{path}.{key}"
        message = f"{field} is missing; give a string."
        raise RequestError(message, field, "missing_required_parameter")
    if not isinstance(text, str):
        raise InvalidParameter(f"{path}.{key}", text, "a string")
    return {"type": "refusal", "refusal": text} if key == "refusal" else _part(part_type, text)


def _part(part_type: str, text: str) -> Item:
    part: Item = {"type": part_type, "text": text}
    return {**part, "annotations": []} if part_type == "output_text" else part


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    """Parts are joined by line breaks, as in chat."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", part.get("refusal", ""))) for part in content)


def _reasoning_text(item: Mapping[str, Any]) -> str:
    return "\n".join(part["text"] for part in item.get("content") or ())


def _is_instruction(item: Mapping[str, Any]) -> bool:
    return item.get("role") in ("system", "developer")


def _num_chars(item: Mapping[str, Any]) -> int:
    parts = (item.get(name) for name in ("content", "output", "arguments"))
    return sum(len(_text(part)) for part in parts if part)
