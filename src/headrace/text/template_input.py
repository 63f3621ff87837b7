"""Messages, tools and keyword arguments as the plain values chat templates expect.

In: core records of a request. Out: dictionaries in the form Hugging Face templates read. Every text
a caller supplies passes through one function on its way, so that control_text can mark it. Knows
nothing of jinja2 and tokens.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from headrace.core.errors import InvalidParameter, RequestError
from headrace.core.message import Message, Tool, ToolCall

_SHORT_ID = re.compile("[A-Za-z0-9]{9}")
# `tool_call.id|length != 9`, as Mistral's templates ask.
_ASKS_SHORT_IDS = re.compile(r"id['\"]?\]?\s*\|\s*length\s*(?:!=|==|<)\s*9\b")

Mark = Callable[[str], str]
RESERVED_NAMES = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template"}
)
# Words that templates compare with; they hold no control token.
ROLES = ("system", "developer", "user", "assistant", "tool")
# fmt: off
_SCHEMA_WORDS = frozenset({
    "type", "format", "properties", "required", "items", "description", "enum", "default", "title",
    "const", "anyOf", "oneOf", "allOf", "additionalProperties", "minimum", "maximum", "minLength",
    "maxLength", "minItems", "maxItems", "pattern", "nullable", "string", "number", "integer",
    "boolean", "object", "array", "null", "$defs", "$ref", "definitions", "examples",
})
# fmt: on


class TemplateInput:
    """Builds template variables, marking what callers wrote.

    `known_words` are texts the template itself quotes; a role or argument that is one of them is
    the template's own word, and is left as it is so that comparisons hold. With `has_short_ids`
    the ids of calls are nine letters and digits.
    """

    def __init__(
        self, mark: Mark, is_known_word: Callable[[str], bool], has_short_ids: bool = False
    ) -> None:
        self._mark, self._is_known_word = mark, is_known_word
        self._has_short_ids = has_short_ids

    def message(self, message: Message) -> dict[str, Any]:
        mark = self._mark
        values: dict[str, Any] = {"role": self._role(message.role)}
        values["content"] = None if message.content is None else mark(message.content)
        if message.reasoning_content is not None:
            reasoning = mark(message.reasoning_content)
            values |= {"reasoning_content": reasoning, "thinking": reasoning}
        if message.name is not None:
            values["name"] = mark(message.name)
        if message.tool_calls:
            values["tool_calls"] = [self._tool_call(call) for call in message.tool_calls]
        if message.tool_call_id is not None:
            values["tool_call_id"] = self._call_id(message.tool_call_id)
        return values

    def tool(self, tool: Tool) -> dict[str, Any]:
        function: dict[str, Any] = {"name": self._mark(tool.name)}
        if tool.description is not None:
            function["description"] = self._mark(tool.description)
        if tool.parameters is not None:
            function["parameters"] = self._schema(tool.parameters)
        return {"type": "function", "function": function}

    def keyword_arguments(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Check and mark `chat_template_kwargs`.

        Raises: InvalidParameter for a name that is taken or a value that is not JSON.
        """
        for name in values:
            if name in RESERVED_NAMES or name.startswith("_") or not name.isidentifier():
                taken = ", ".join(sorted(RESERVED_NAMES))
                raise InvalidParameter(
                    "chat_template_kwargs", name, f"a variable of the template, but none of {taken}"
                )
        return {name: self._argument(value) for name, value in values.items()}

    def _role(self, role: str) -> str:
        """Most templates drop a role they do not know; "developer" means "system" to them."""
        if role == "developer" and not self._is_known_word(role):
            return "system"
        return role if role in ROLES else self._word(role)

    def _tool_call(self, call: ToolCall) -> dict[str, Any]:
        try:
            arguments = json.loads(call.arguments) if call.arguments.strip() else {}
        except (ValueError, RecursionError):  # a model may have written broken JSON
            arguments = call.arguments
        function = {"name": self._mark(call.name), "arguments": self._data(arguments)}
        return {"id": self._call_id(call.id), "type": "function", "function": function}

    def _call_id(self, call_id: str) -> str:
        """Another id becomes a short one, the same each time; it is ours and holds no mark."""
        if not self._has_short_ids or _SHORT_ID.fullmatch(call_id):
            return self._mark(call_id)
        return hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]

    def _word(self, text: str) -> str:
        return text if self._is_known_word(text) else self._mark(text)

    def _data(self, value: Any) -> Any:
        """A caller's JSON: keys and texts are marked."""
        if isinstance(value, str):
            return self._mark(value)
        if isinstance(value, Mapping):
            return {self._mark(str(key)): self._data(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self._data(item) for item in value]
        return value

    def _schema(self, value: Any) -> Any:
        """A JSON schema: its own words stay, names and descriptions are marked."""
        if isinstance(value, str):
            return value if value in _SCHEMA_WORDS else self._mark(value)
        if isinstance(value, Mapping):
            return {self._schema(str(key)): self._schema(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self._schema(item) for item in value]
        return value

    def _argument(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self._word(value)
        if isinstance(value, Mapping):
            return {self._word(str(key)): self._argument(item) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self._argument(item) for item in value]
        raise InvalidParameter("chat_template_kwargs", value, "JSON values")


def check_messages(messages: Sequence[Message], roles: Sequence[str]) -> None:
    """See that every message has a role the template knows, and content.

    Templates drop a role they do not know and fail on absent content in words of their own.
    Raises: RequestError that names the message and its field.
    """
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role not in roles:
            raise InvalidParameter(f"{where}.role", message.role, ", ".join(roles))
        if not all(isinstance(call, ToolCall) for call in message.tool_calls):
            raise InvalidParameter(f"{where}.tool_calls", message.tool_calls, "ToolCall records")
        if message.content is None and not (message.role == "assistant" and message.tool_calls):
            raise RequestError(
                f"{where}.content is missing; give a text. "
                "Only an assistant message with tool_calls may leave it out.",
                f"{where}.content",
                "missing_required_parameter",
            )
        if not isinstance(message.content, str | None):
            raise InvalidParameter(f"{where}.content", message.content, "a text")


def asks_short_ids(template: str) -> bool:
    """Whether a template takes ids of calls only if they are nine letters and digits."""
    return _ASKS_SHORT_IDS.search(template) is not None


def caller_texts(value: Any) -> list[str]:
    """Every text in template variables, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for pair in value.items() for part in pair for text in caller_texts(part)]
    if isinstance(value, Sequence):
        return [text for item in value for text in caller_texts(item)]
    return []
