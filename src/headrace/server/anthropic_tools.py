"""Tools of an Anthropic body: `tools` and `tool_choice`, as `core` sees them.

In: checked fields. Out: core records, and keys that nobody defines. The rules are those that every
dialect shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from headrace.core.errors import InvalidParameter, RequestError, UnsupportedParameter
from headrace.core.message import Tool, ToolChoice
from headrace.server.anthropic_schema import PromptFields, check_cache_control
from headrace.server.error_responses import worded
from headrace.server.generation_schema import Strict, allowed, unknown_names, validate
from headrace.server.tool_schema import (
    FunctionToolFields,
    Mode,
    ToolsAsked,
    check_tools,
    make_choice,
    make_tool,
)

_MODES: Mapping[str, Mode] = {
    "auto": "auto",
    "any": "required",
    "tool": "required",
    "none": "none",
}
# Without effect: input is sent as it comes, and only the model itself calls.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "defer_loading": (False,),
    "allowed_callers": (["direct"],),
    "input_examples": ([],),
}
_REFUSED = {
    "defer_loading": "every tool is part of the prompt. Leave it out.",
    "allowed_callers": "tools are called by the model alone. Leave it out.",
    "input_examples": "put examples into the description.",
}


class ToolFields(Strict):
    name: str = Field(description="the name of the tool")
    input_schema: dict[str, Any] = Field(description="a JSON schema: an object")
    type: str | None = allowed("custom")
    description: str | None = allowed("a string")
    strict: bool | None = allowed("true or false")
    eager_input_streaming: bool | None = allowed("true or false")


class ToolChoiceFields(Strict):
    type: Literal["auto", "any", "tool", "none"] = Field(description="auto, any, tool or none")
    name: str | None = allowed("the name of one of the tools")
    disable_parallel_tool_use: bool | None = allowed("true or false")


def read_tools(fields: PromptFields) -> ToolsAsked:
    """Raises: RequestError that names the tool or the choice at fault."""
    tools, unknown = [], []
    for index, value in enumerate(fields.tools or ()):
        tool, keys = _read_tool(value, f"tools[{index}]")
        tools.append(tool)
        unknown += keys
    check_tools(tools, "name")
    choice, more = _read_choice(fields.tool_choice, tools)
    return ToolsAsked(tuple(tools), choice, (*unknown, *more))


def tool_wire_names(tools: Sequence[Tool]) -> dict[str, str]:
    """What shared words for tools are in the words of an Anthropic body."""
    names = {"tool_choice": "tool_choice.name"}
    for index in range(len(tools)):
        names[f"tools[{index}].parameters"] = f"tools[{index}].input_schema"
        names[f"tools[{index}].parameters.type"] = f"tools[{index}].input_schema.type"
    return names


def _read_tool(value: Mapping[str, Any], path: str) -> tuple[Tool, list[str]]:
    kind = value.get("type")
    if kind not in (None, "custom"):
        raise UnsupportedParameter(
            f"{path}.type", f"{kind!r} is not served. Use custom, with an input_schema."
        )
    fields = validate(ToolFields, value, f"{path}.")
    for name, reason in _REFUSED.items():
        if value.get(name) is not None and value[name] not in _NEUTRAL[name]:
            raise UnsupportedParameter(f"{path}.{name}", reason)
    unknown = check_cache_control(value.get("cache_control"), f"{path}.")
    unknown += unknown_names(fields, (*_REFUSED, "cache_control"), f"{path}.")
    shared = FunctionToolFields(
        name=fields.name,
        description=fields.description,
        parameters=fields.input_schema,
        strict=fields.strict,
    )
    with worded({f"{path}.parameters.type": f"{path}.input_schema.type"}):
        return make_tool(shared, path), unknown


def _read_choice(
    value: Mapping[str, Any] | None, tools: Sequence[Tool]
) -> tuple[ToolChoice, list[str]]:
    if value is None:
        return ToolChoice(), []
    fields = validate(ToolChoiceFields, value, "tool_choice.")
    unknown = unknown_names(fields, (), "tool_choice.")
    mode = _MODES[fields.type]
    if mode == "required" and not tools:
        raise InvalidParameter("tool_choice.type", fields.type, "auto or none without tools")
    if fields.type == "tool" and fields.name is None:
        raise RequestError(
            "tool_choice.name is missing; give the name of one of the tools.",
            "tool_choice.name",
            "missing_required_parameter",
        )
    names = [fields.name] if fields.type == "tool" and fields.name is not None else None
    with worded({"tool_choice": "tool_choice.name"}):
        allows_parallel = not fields.disable_parallel_tool_use
        return make_choice(tools, mode, names, allows_parallel, fields.name), unknown
