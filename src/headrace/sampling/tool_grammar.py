"""The form of an answer that must call tools, as a grammar in Lark.

In: how a model family writes calls, the tools that may be called, how many calls. Out: the
grammar's text, in exactly the form the family's template writes calls in and its parser reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.core.message import Tool
from headrace.text.call_syntax import CallSyntax
from headrace.text.reasoning import ReasoningMarks

# As `tojson` writes, and so as templates show calls to the model.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_ANY_TEXT = r"/(.|\n)*/"
_BREAK = r"/\n{0,2}/"


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: always an object; none at all where there is no schema."""
    if tool.parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return {"type": "object", **tool.parameters}


def tool_grammar(
    syntax: CallSyntax,
    tools: Sequence[Tool],
    control_ids: Mapping[str, int],
    is_single: bool,
) -> str:
    """Lark rules of which `calls` is one call or, unless `is_single`, several.

    `control_ids` are the markers that are control tokens of the model.
    """
    writer = _Writer(syntax, control_ids)
    lines = [f"call: {' | '.join(f'call_{index}' for index in range(len(tools)))}"]
    lines += [f"call_{index}: {writer.call(tool)}" for index, tool in enumerate(tools)]
    return "\n".join([f"calls: {writer.calls(is_single)}", *lines])


def reasoning_grammar(
    marks: ReasoningMarks | None, is_open: bool, control_ids: Mapping[str, int]
) -> str:
    """Lark rules that begin an answer: `calls`, after reasoning where there may be some."""
    if marks is None:
        return "start: calls"
    opening, closing = (_marker(text, control_ids) for text in (marks.opening, marks.closing))
    reasoning = "reasoning" if is_open else f"({opening} reasoning)?"
    if marks.closing in control_ids:
        inside = f"reasoning: {_ANY_TEXT} {closing}"
    else:
        inside = f"reasoning[suffix={closing}]: {_ANY_TEXT}"
    return f"start: {reasoning} {_BREAK} calls\n{inside}"


class _Writer:
    """Parts of the rules for one syntax."""

    def __init__(self, syntax: CallSyntax, control_ids: Mapping[str, int]) -> None:
        self._syntax, self._control_ids = syntax, control_ids

    def calls(self, is_single: bool) -> str:
        syntax = self._syntax
        opening = self._all(self._marker(syntax.opening), _quoted(syntax.before))
        closing = self._all(_quoted(syntax.after), self._marker(syntax.closing))
        one = "call" if syntax.is_list else self._all(opening, "call", closing)
        several = one
        if syntax.between is not None and not is_single:
            several = f"{one} ({self._all(_quoted(syntax.between), one)})*"
        return self._all(opening, '"["', several, '"]"', closing) if syntax.is_list else several

    def call(self, tool: Tool) -> str:
        schema = arguments_schema(tool) | {"x-guidance": _SPACING}
        arguments = f"%json {json.dumps(schema, allow_nan=False)}"
        if self._syntax.arguments_marker:
            marker = self._marker(self._syntax.arguments_marker)
            return self._all(_quoted(tool.name), marker, arguments)
        name = json.dumps(tool.name)
        head = f'{{"name": {name}, "{self._syntax.arguments_key}": '
        return self._all(_quoted(head), arguments, '"}"')

    def _marker(self, text: str) -> str:
        return _marker(text, self._control_ids)

    @staticmethod
    def _all(*parts: str) -> str:
        return " ".join(part for part in parts if part)


def _marker(text: str, control_ids: Mapping[str, int]) -> str:
    token_id = control_ids.get(text)
    return _quoted(text) if token_id is None else f"<[{token_id}]>"


def _quoted(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text) if text else ""
