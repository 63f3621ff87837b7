"""Tools of a body of the Responses API, where a function is not nested in its tool.

In: checked fields. Out: core records, how the response shows them, and keys that nobody defines.
The rules are those of `tool_schema`; tools that would run at the server are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from headrace.core.errors import InvalidParameter, UnsupportedParameter
from headrace.core.frozen import frozen
from headrace.core.message import Tool, ToolChoice
from headrace.server.generation_schema import unknown_names, validate
from headrace.server.tool_schema import (
    AllowedToolsFields,
    FunctionToolFields,
    Mode,
    make_choice,
    make_tool,
    read_each,
    read_plain_choice,
    read_tool_name,
)

TOOL_CHOICES = (
    'none, auto, required, {"type": "function", "name": ...} or '
    '{"type": "allowed_tools", "mode": ..., "tools": [...]}'
)


@frozen
class ResponseTools:
    """What a body asks of tools, and how its response shows it."""

    tools: tuple[Tool, ...]
    choice: ToolChoice
    shown: Sequence[Mapping[str, Any]]
    shown_choice: str | Mapping[str, Any]
    unknown: Sequence[str] = field(default_factory=list)


def read_response_tools(
    tools: Sequence[Any] | None, choice: object, allows_parallel: bool | None
) -> ResponseTools:
    """Raises: RequestError that names the tool or the choice at fault."""
    read, unknown = read_each(tools, _read_tool)
    mode, names, more = _read_choice(choice)
    made = make_choice(read, mode, names, allows_parallel is not False, choice)
    shown_choice = choice if isinstance(choice, str | Mapping) else "auto"
    return ResponseTools(
        tuple(read), made, [_show(tool) for tool in read], shown_choice, [*unknown, *more]
    )


def _show(tool: Tool) -> Mapping[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.is_strict,
    }


def _read_tool(value: object, path: str) -> tuple[Tool, list[str]]:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(kind, str):
        raise InvalidParameter(path, value, 'an object {"type": "function", "name": ...}')
    if kind != "function":
        raise _hosted(f"{path}.type", kind)
    fields = validate(FunctionToolFields, value, f"{path}.")
    return make_tool(fields, path), unknown_names(fields, ("type",), f"{path}.")


def _read_choice(choice: object) -> tuple[Mode, list[str] | None, list[str]]:
    """Mode, names and unknown keys."""
    if not isinstance(choice, Mapping):
        return read_plain_choice(choice, TOOL_CHOICES), None, []
    kind = choice.get("type")
    if not isinstance(kind, str):
        raise InvalidParameter("tool_choice", choice, TOOL_CHOICES)
    if kind == "function":
        unknown = [f"tool_choice.{name}" for name in choice if name not in ("type", "name")]
        return "required", [read_tool_name(choice, "tool_choice")], unknown
    if kind != "allowed_tools":
        raise _hosted("tool_choice.type", kind)
    fields = validate(AllowedToolsFields, choice, "tool_choice.")
    names = [
        read_tool_name(tool, f"tool_choice.tools[{at}]") for at, tool in enumerate(fields.tools)
    ]
    unknown = unknown_names(fields, ("type",), "tool_choice.")
    return fields.mode, list(dict.fromkeys(names)), unknown


def _hosted(path: str, kind: str) -> UnsupportedParameter:
    shown = kind if len(kind) <= 60 else f"{kind[:57]}..."
    reason = f"{shown!r} would run at the server, which has no such tool. Use function."
    return UnsupportedParameter(path, reason)
