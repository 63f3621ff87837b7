"""Tools of a chat body: `tools`, `tool_choice`, `parallel_tool_calls`, as `core` sees them.

In: checked fields. Out: core records, and keys that nobody defines. `make_tool` and `make_choice`
hold the rules that every dialect shares. Whether calls can be held to a schema is found out by the
backend.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

from pydantic import Field

from headrace.core.errors import InvalidParameter, RequestError, UnsupportedParameter
from headrace.core.frozen import frozen
from headrace.core.message import Tool, ToolChoice
from headrace.server.error_responses import wrong_member
from headrace.server.generation_schema import Strict, allowed, unknown_names, validate

MAX_TOOLS = 512
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_NAME_RULE = "1 to 128 letters, digits and _ . : / -"
_CHOICES = (
    'none, auto, required, {"type": "function", "function": {"name": ...}} or '
    '{"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}}'
)

Mode = Literal["auto", "none", "required"]


class FunctionToolFields(Strict):
    name: str = Field(description=_NAME_RULE)
    description: str | None = allowed("a string")
    parameters: dict[str, Any] | None = allowed("a JSON schema: an object")
    strict: bool | None = allowed("true or false")


class AllowedToolsFields(Strict):
    mode: Literal["auto", "required"] = Field(description="auto or required")
    tools: list[Any] = Field(description="a list of tools", min_length=1)


@frozen
class ToolsAsked:
    """What a body asks of tools, and keys in it that nobody defines."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = field(default_factory=ToolChoice)
    unknown: tuple[str, ...] = ()


def read_tools(
    tools: Sequence[Any] | None, choice: object, allows_parallel: bool | None
) -> ToolsAsked:
    """Raises: RequestError that names the tool or the choice at fault."""
    read, unknown = read_each(tools, _read_tool, "function.name")
    mode, names, more = _read_choice(choice)
    made = make_choice(read, mode, names, allows_parallel is not False, choice)
    return ToolsAsked(tuple(read), made, (*unknown, *more))


def read_each(
    tools: Sequence[Any] | None,
    read_tool: Callable[[object, str], tuple[Tool, list[str]]],
    name_at: str = "name",
) -> tuple[list[Tool], list[str]]:
    """The tools, each read in a dialect's way, and keys that nobody defines. Names are at `name_at`
    of a tool.

    Raises: RequestError that names the tool at fault.
    """
    read, unknown = [], []
    for index, value in enumerate(tools or ()):
        tool, keys = read_tool(value, f"tools[{index}]")
        read.append(tool)
        unknown += keys
    check_tools(read, name_at)
    return read, unknown


def make_tool(fields: FunctionToolFields, path: str) -> Tool:
    """Raises: InvalidParameter for a name or a schema that is none. `path` is the function's."""
    if not _NAME.fullmatch(fields.name):
        raise InvalidParameter(f"{path}.name", fields.name, _NAME_RULE)
    kind = (fields.parameters or {}).get("type", "object")
    if kind != "object":
        raise InvalidParameter(f"{path}.parameters.type", kind, "object")
    return Tool(fields.name, fields.description, fields.parameters, bool(fields.strict))


def check_tools(tools: Sequence[Tool], name_at: str) -> None:
    """Raises: RequestError for too many tools, InvalidParameter for two of one name."""
    if len(tools) > MAX_TOOLS:
        raise RequestError(
            f"tools has {len(tools)} tools; allowed: at most {MAX_TOOLS}.", "tools", "invalid_value"
        )
    first: dict[str, int] = {}
    for index, tool in enumerate(tools):
        if tool.name in first:
            path, hint = f"tools[{index}].{name_at}", f"tools[{first[tool.name]}] has this one."
            raise InvalidParameter(path, tool.name, "a name that no other tool has", hint)
        first[tool.name] = index


def make_choice(
    tools: Sequence[Tool],
    mode: Mode,
    names: Sequence[str] | None,
    allows_parallel: bool,
    given: object,
) -> ToolChoice:
    """Raises: InvalidParameter for a choice, as it was `given`, that the tools do not allow."""
    known = [tool.name for tool in tools]
    if not known and (mode == "required" or names):
        raise InvalidParameter("tool_choice", given, "auto or none without tools")
    for name in names or ():
        if name not in known:
            raise InvalidParameter("tool_choice", name, f"one of the tools: {', '.join(known)}")
    return ToolChoice(mode, None if names is None else tuple(names), allows_parallel)


def tool_wire_names(tools: Sequence[Tool]) -> dict[str, str]:
    """What the backend's words for a tool are in the words of a chat body."""
    return {
        f"tools[{index}].{name}": f"tools[{index}].function.{name}"
        for index in range(len(tools))
        for name in ("parameters", "parameters.type")
    }


def _read_tool(value: object, path: str) -> tuple[Tool, list[str]]:
    if not isinstance(value, Mapping):
        raise InvalidParameter(path, value, 'an object: {"type": "function", "function": {...}}')
    kind = value.get("type", "function")
    if kind != "function":
        raise UnsupportedParameter(f"{path}.type", f"{kind!r} is not served. Use function.")
    function = value.get("function")
    if not isinstance(function, Mapping):
        raise wrong_member(value, "function", f"{path}.function", "an object with a name")
    fields = validate(FunctionToolFields, function, f"{path}.function.")
    unknown = [f"{path}.{name}" for name in value if name not in ("type", "function")]
    unknown += unknown_names(fields, (), f"{path}.function.")
    return make_tool(fields, f"{path}.function"), unknown


def _read_choice(choice: object) -> tuple[Mode, list[str] | None, list[str]]:
    """Mode, names and unknown keys."""
    if not isinstance(choice, Mapping):
        return read_plain_choice(choice, _CHOICES), None, []
    kind = choice.get("type")
    unknown = [f"tool_choice.{name}" for name in choice if name not in ("type", kind)]
    if kind == "function":
        return "required", [_read_name(choice, "tool_choice")], unknown
    if kind != "allowed_tools":
        raise InvalidParameter("tool_choice", choice, _CHOICES)
    path = "tool_choice.allowed_tools"
    inner = choice.get("allowed_tools")
    if not isinstance(inner, Mapping):
        raise wrong_member(choice, "allowed_tools", path, "an object with mode and tools")
    fields = validate(AllowedToolsFields, inner, f"{path}.")
    names = [_read_name(tool, f"{path}.tools[{at}]") for at, tool in enumerate(fields.tools)]
    return fields.mode, list(dict.fromkeys(names)), unknown


def read_plain_choice(choice: object, allowed: str) -> Mode:
    """A choice that is one word; none is `auto`. Raises: InvalidParameter."""
    if choice is None:
        return "auto"
    if choice not in ("auto", "none", "required"):
        raise InvalidParameter("tool_choice", choice, allowed)
    return choice


def read_tool_name(value: object, path: str) -> str:
    """The name in a tool or in its function. Raises: RequestError."""
    if not isinstance(value, Mapping):
        raise InvalidParameter(path, value, "an object with the name of one of the tools")
    name = value.get("name")
    if not isinstance(name, str):
        raise wrong_member(value, "name", f"{path}.name", "the name of one of the tools")
    return name


def _read_name(value: object, path: str) -> str:
    if not isinstance(value, Mapping):
        raise InvalidParameter(path, value, "an object with the name of one of the tools")
    return read_tool_name(value.get("function", {}), f"{path}.function")
