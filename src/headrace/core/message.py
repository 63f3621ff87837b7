"""Chat messages and tools as every dialect and every template sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from headrace.core.frozen import frozen


@frozen
class ToolCall:
    """A call the model made. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@frozen
class Message:
    """One turn. `content` is plain text; dialects join their text parts before they come here."""

    role: str
    content: str | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning_content: str | None = None


@frozen
class Tool:
    """A function the model may call.

    `parameters` is a JSON schema of an object; None takes no arguments. With `is_strict` a call's
    arguments satisfy it always; else they do when the call is forced.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    is_strict: bool = False


@frozen
class ToolChoice:
    """Which tools an answer calls.

    Fields:
        mode: auto leaves it to the model, none forbids, required wants at least one call.
        names: the tools that may be called; None for all. One name and required is a named tool.
        allows_parallel: false for at most one call.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] | None = None
    allows_parallel: bool = True
