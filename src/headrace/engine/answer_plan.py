"""AnswerPlanner: from a request's tools to the format of its answers and the form that forces it.

In: a chat request and the end of its prompt. Out: which parts its answers have, and the grammar of
a forced call. Keeps nothing but the model's facts. Knows nothing of queues and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from headrace.core.errors import InvalidGrammar, InvalidParameter, UnsupportedParameter
from headrace.core.message import Tool
from headrace.core.request import GenerateRequest
from headrace.core.structured_outputs import StructuredOutputs
from headrace.sampling.json_schema import read_schema
from headrace.sampling.tool_grammar import arguments_schema, reasoning_grammar, tool_grammar
from headrace.text.answer_parts import TEXT_ALONE, AnswerFormat
from headrace.text.call_syntax import CallSyntax, find_call_syntax, reads_tools
from headrace.text.reasoning import find_reasoning_marks, opens_reasoning
from headrace.text.tokenizer import Tokenizer

# Enough for the marks of reasoning, spelled out, and white space after them.
_NUM_LAST_TOKENS = 32


class AnswerPlanner:
    """What one model's template says of the parts of answers."""

    def __init__(self, tokenizer: Tokenizer, template: str | None) -> None:
        self._tokenizer = tokenizer
        self._syntax = None if template is None else find_call_syntax(template)
        self._reads_tools = template is not None and reads_tools(template)
        self._marks = None if template is None else find_reasoning_marks(template)

    def answer_format(self, request: GenerateRequest, prompt: Sequence[int]) -> AnswerFormat:
        """Which parts the answers have. Raises: UnsupportedParameter, InvalidParameter."""
        if request.messages is None:
            return TEXT_ALONE
        tools = callable_tools(request)
        calls = self._call_syntax() if tools else None
        # A caller's form holds from the first token, and leaves no room for reasoning.
        is_free = request.sampling.structured_outputs is None or not tools
        marks = self._marks if request.splits_reasoning and is_free else None
        form = AnswerFormat(
            reasoning=marks,
            is_reasoning_open=marks is not None and opens_reasoning(self._end_of(prompt), marks),
            calls=calls,
            tool_names=tuple(tool.name for tool in tools),
            max_calls=None if request.tool_choice.allows_parallel else 1,
        )
        shown = frozenset(self._control_ids(form.markers).values())
        return replace(form, shown_token_ids=shown)

    def forced_form(self, request: GenerateRequest, form: AnswerFormat) -> StructuredOutputs | None:
        """The form of an answer that must call a tool; None where it need not.

        Raises: InvalidGrammar, InvalidParameter.
        """
        choice, calls = request.tool_choice, form.calls
        if request.messages is None or choice.mode != "required":
            return None
        if calls is None:
            raise InvalidParameter("tool_choice", "required", "auto or none without tools")
        tools = callable_tools(request)
        for index, tool in enumerate(request.tools):
            if tool in tools:
                check_arguments(tool, f"tools[{index}].parameters")
        is_named = choice.names is not None and len(choice.names) == 1
        control_ids = self._control_ids(form.markers)
        is_single = is_named or not choice.allows_parallel
        rules = tool_grammar(calls, tools, control_ids, is_single)
        start = reasoning_grammar(form.reasoning, form.is_reasoning_open, control_ids)
        return StructuredOutputs(grammar=f"{start}\n{rules}")

    def _call_syntax(self) -> CallSyntax:
        if self._syntax is None or not self._reads_tools:
            raise UnsupportedParameter(
                "tools",
                "this model's chat template writes tool calls in a form that is not read here. "
                'Leave it out, or send tool_choice: "none".',
            )
        return self._syntax

    def _control_ids(self, texts: Sequence[str]) -> dict[str, int]:
        """Those of the texts that are control tokens."""
        ids = {text: self._tokenizer.id_of(text) for text in texts}
        special = self._tokenizer.special_token_ids
        return {text: i for text, i in ids.items() if i is not None and i in special}

    def _end_of(self, prompt: Sequence[int]) -> str:
        known = [i for i in prompt[-_NUM_LAST_TOKENS:] if i < self._tokenizer.vocab_size]
        return self._tokenizer.decode(known)


def callable_tools(request: GenerateRequest) -> tuple[Tool, ...]:
    """The tools an answer may call. Raises: InvalidParameter for a name that is not there."""
    choice = request.tool_choice
    if choice.mode == "none":
        return ()
    if choice.names is None:
        return request.tools
    known = {tool.name: tool for tool in request.tools}
    for name in choice.names:
        if name not in known:
            raise InvalidParameter("tool_choice", name, f"{', '.join(known) or 'none or auto'}")
    return tuple(known[name] for name in choice.names)


def check_arguments(tool: Tool, param: str) -> None:
    """Raises: InvalidGrammar for a schema that calls cannot be held to."""
    form = StructuredOutputs(json=arguments_schema(tool))
    try:
        schema = read_schema(form.source, param)
    except InvalidGrammar as error:
        raise InvalidGrammar(param, error.reason) from None
    if schema["type"] != "object":
        raise InvalidParameter(f"{param}.type", schema["type"], "object")


def blame_tool(
    request: GenerateRequest, error: InvalidGrammar, check: Callable[[StructuredOutputs], None]
) -> None:
    """Say which tool's schema makes a forced call impossible. Raises: InvalidGrammar."""
    for index, tool in enumerate(request.tools):
        try:
            check(StructuredOutputs(json=arguments_schema(tool)))
        except InvalidGrammar as found:
            raise InvalidGrammar(f"tools[{index}].parameters", found.reason) from None
    raise InvalidGrammar("tools", error.reason) from None
