"""The form of an answer with tool calls, as a grammar in Lark.

In: how a model family writes calls, the tools that may be called. Out: rules of which `answer` is
calls alone, calls or something else, or free text in which a call that begins is held to its form.
They write calls exactly as the family's template does and its parser reads.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from headrace.core.message import Tool
from headrace.sampling.json_schema import SOME_WHITESPACE
from headrace.text.call_syntax import CallSyntax
from headrace.text.reasoning import ReasoningMarks

# As `tojson` writes, and so as templates show calls to the model.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_FREE_SPACING = {"whitespace_pattern": SOME_WHITESPACE}
_ANY_OBJECT = {"type": "object", "x-guidance": _FREE_SPACING}
_ANY_TEXT = r"/(.|\n)*/"
_BREAK = r"/\n{0,2}/"
# The usual beginning of a call without the family's mark, as `text.tool_calls` reads it: up to its
# name, at the start of an answer, in a fence, or after another such call; then to its arguments.
_HEAD = r'\s*\{\s*"name"\s*:\s*"'
_AFTER_CALL = r"[\s;,}]*\[?"
_AFTER_NAME = r'"\s*,\s*"(arguments|parameters)"\s*:'


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: always an object; none at all where there is no schema."""
    if tool.parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return {"type": "object", **tool.parameters}


class ToolGrammar:
    """Rules for one syntax and the tools that may be called.

    `held` names those whose arguments satisfy their schemas; the others take any object.
    `control_ids` are the markers that are control tokens of the model.
    """

    def __init__(
        self,
        syntax: CallSyntax,
        tools: Sequence[Tool],
        held: Collection[str],
        control_ids: Mapping[str, int],
    ) -> None:
        self._syntax, self._tools = syntax, tools
        self._held, self._control_ids = frozenset(held), control_ids

    def calls(self, is_single: bool, instead: str = "") -> str:
        """An answer of one call or, unless `is_single`, several; or of the rule `instead`."""
        answer = f"calls | {instead}" if instead else "calls"
        rules = [f"answer: {answer}", f"calls: {self._several(is_single)}"]
        if self._syntax.opening:
            rules.append(_lazy("opening", self._syntax.opening, self._control_ids))
        return "\n".join([*rules, *self._call_rules(_SPACING)])

    def text_with_calls(self) -> str:
        """An answer of any text, in which each call that begins has its form."""
        marked, marks = [], []
        for index, (opening, closing) in enumerate(self._syntax.own_openings.items()):
            marked.append(f"marked_{index}: mark_{index} {self._after_mark(opening, closing)}")
            marks.append(_up_to(f"mark_{index}", opening, self._control_ids))
        kinds = [f"marked_{index}" for index in range(len(marked))]
        unmarked = self._unmarked_rules()
        kinds += ["unmarked"] * bool(unmarked)
        rules = [f"answer: ({' | '.join(kinds)})* TEXT?", r"TEXT: /(.|\n)+/"]
        return "\n".join([*rules, *marked, *marks, *unmarked, *self._call_rules(_FREE_SPACING)])

    def _several(self, is_single: bool) -> str:
        syntax = self._syntax
        opening = _all("opening" if syntax.opening else "", _quoted(syntax.before))
        closing = _all(_quoted(syntax.after), self._marker(syntax.closing))
        one = "call" if syntax.is_list else _all(opening, "call", closing)
        several = one
        if syntax.between is not None and not is_single:
            several = f"{one} ({_all(_quoted(syntax.between), one)})*"
        return _all(opening, '"["', several, '"]"', closing) if syntax.is_list else several

    def _after_mark(self, opening: str, closing: str) -> str:
        syntax = self._syntax
        is_usual = opening == syntax.opening
        inner = f'"[" call ({_quoted(syntax.between or ", ")} call)* "]"'
        before, after = (syntax.before, syntax.after) if is_usual else ("", "")
        inner = inner if syntax.is_list and is_usual else "call"
        return _all(_quoted(before), inner, _quoted(after), self._marker(closing))

    def _call_rules(self, spacing: dict[str, Any]) -> list[str]:
        numbers = range(len(self._tools))
        rules = [f"call: {' | '.join(f'call_{index}' for index in numbers)}"]
        rules += [f"call_{index}: {self._call(index)}" for index in numbers]
        return rules + [f"arguments_{i}: {self._arguments(i, spacing)}" for i in numbers]

    def _call(self, index: int) -> str:
        name = self._tools[index].name
        if self._syntax.has_bare_names:
            marker = self._marker(self._syntax.arguments_marker)
            return _all(_quoted(name), marker, f"arguments_{index}")
        head = f'{{"name": {json.dumps(name)}, "{self._syntax.arguments_key}": '
        return _all(_quoted(head), f"arguments_{index}", '"}"')

    def _arguments(self, index: int, spacing: dict[str, Any]) -> str:
        tool = self._tools[index]
        is_held = tool.name in self._held
        schema = arguments_schema(tool) | {"x-guidance": spacing} if is_held else _ANY_OBJECT
        return f"%json {json.dumps(schema, allow_nan=False)}"

    def _unmarked_rules(self) -> list[str]:
        """Calls where they come without a mark, if some are to be held. One lexeme finds all."""
        if not self._held:
            return []
        places = [rf"(.|\n)*{fence}\s*\[?" for fence in self._syntax.fences]
        head = f"({'|'.join((*places, _AFTER_CALL))}){_HEAD}"
        numbers = range(len(self._tools))
        rules = [
            f"unmarked: head ({' | '.join(f'unmarked_{index}' for index in numbers)})?",
            f"head[lazy]: /{head}/",
        ]
        for index in numbers:
            name = _escaped(self._tools[index].name)
            rules += [
                rf"unmarked_{index}: name_{index} /\s?/ arguments_{index} /\s*\}}/",
                f"name_{index}[lazy]: /{name}{_AFTER_NAME}/",
            ]
        return rules

    def _marker(self, text: str) -> str:
        return _marker(text, self._control_ids)


def answer_grammar(
    answer: str,
    marks: ReasoningMarks | None,
    is_open: bool,
    control_ids: Mapping[str, int],
    *,
    ends_anywhere: bool = False,
) -> str:
    """A grammar of rules with `answer`, after reasoning where there may be some.

    With `ends_anywhere` the reasoning may be all there is.
    """
    if marks is None:
        return f"start: answer\n{answer}"
    rest = f"reasoning {_BREAK} answer"
    rules = [_up_to("reasoning", marks.closing, control_ids)]
    if ends_anywhere:
        rest = f"({rest} | UNFINISHED)"
        rules.append(r"UNFINISHED: /(.|\n)+/")
    if not is_open:
        rest = f"thinking {rest} | answer"
        rules.append(_lazy("thinking", marks.opening, control_ids))
    return "\n".join([f"start: {rest}", *rules, answer])


def _lazy(rule: str, text: str, control_ids: Mapping[str, int]) -> str:
    """A text that is nothing else where it stands, whatever else could begin so."""
    attribute = "" if text in control_ids else "[lazy]"
    return f"{rule}{attribute}: {_marker(text, control_ids)}"


def _up_to(rule: str, text: str, control_ids: Mapping[str, int]) -> str:
    """Anything up to a text and with it."""
    if text in control_ids:
        return f"{rule}: {_ANY_TEXT} {_marker(text, control_ids)}"
    return f"{rule}[suffix={_quoted(text)}]: {_ANY_TEXT}"


def _all(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _marker(text: str, control_ids: Mapping[str, int]) -> str:
    token_id = control_ids.get(text)
    return _quoted(text) if token_id is None else f"<[{token_id}]>"


def _quoted(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text) if text else ""


def _escaped(name: str) -> str:
    """A name inside a pattern of Lark."""
    return "".join(c if c.isalnum() or c == "_" else f"\\x{{{ord(c):x}}}" for c in name)
