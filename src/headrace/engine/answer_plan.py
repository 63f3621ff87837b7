"""AnswerPlanner: from a request's tools to the format of its answers and the form that holds them.

In: a chat request and the end of its prompt. Out: which parts its answers have, and what they are
held to: the caller's form, forced calls, the schemas of strict tools. Keeps nothing but the model's
facts. Knows nothing of queues and steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from headrace.core.errors import InvalidGrammar, InvalidParameter, UnsupportedParameter
from headrace.core.message import Tool
from headrace.core.request import GenerateRequest
from headrace.core.structured_outputs import FRAMED, StructuredOutputs
from headrace.sampling.json_schema import read_schema
from headrace.sampling.tool_grammar import ToolGrammar, answer_grammar, arguments_schema
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
        is_either = bool(tools) and is_form_or_call(request)
        calls = self._call_syntax(is_either) if tools else None
        marks = self._marks if request.splits_reasoning else None
        names = tuple(tool.name for tool in tools)
        form = AnswerFormat(
            reasoning=marks,
            is_reasoning_open=marks is not None and opens_reasoning(self._end_of(prompt), marks),
            calls=calls,
            tool_names=names,
            max_calls=None if request.tool_choice.allows_parallel else 1,
            exact_names=names if held_tools(request) else (),
            calls_come_first=is_either,
            calls_stand_alone=request.tool_choice.mode == "required",
        )
        shown = frozenset(self._control_ids(form.markers).values())
        return replace(form, shown_token_ids=shown)

    def held_form(self, request: GenerateRequest, form: AnswerFormat) -> StructuredOutputs | None:
        """What the answers are held to; the caller's own form where nothing is to be added to it.

        Raises: InvalidGrammar, InvalidParameter.
        """
        own = request.sampling.structured_outputs
        if request.messages is None:
            return own
        is_forced = request.tool_choice.mode == "required"
        if is_forced and form.calls is None:
            raise InvalidParameter("tool_choice", "required", "auto or none without tools")
        rules = self._rules(request, form)
        if rules is None:
            return own
        text = answer_grammar(
            rules,
            form.reasoning,
            form.is_reasoning_open,
            self._control_ids(form.markers),
            ends_anywhere=not is_forced and own is None,
        )
        try:
            if is_forced or own is None:
                asked_as = "tool_choice" if is_forced else "tools"
                return StructuredOutputs(grammar=text, asked_as=asked_as)
            return replace(own, frame=text)
        except InvalidGrammar as error:  # too large
            raise InvalidGrammar("tools", error.reason) from None

    def _rules(self, request: GenerateRequest, form: AnswerFormat) -> str | None:
        """What the answer is, after its reasoning; None where nothing is to be held."""
        own, choice = request.sampling.structured_outputs, request.tool_choice
        if form.calls is None:
            return None if own is None or form.reasoning is None else f"answer: @{FRAMED}"
        held = held_tools(request)
        for index, tool in enumerate(request.tools):
            if tool in held:
                check_arguments(tool, f"tools[{index}].parameters")
        tools, control_ids = callable_tools(request), self._control_ids(form.markers)
        grammar = ToolGrammar(form.calls, tools, [tool.name for tool in held], control_ids)
        if choice.mode == "required":
            is_named = choice.names is not None and len(choice.names) == 1
            return grammar.calls(is_named or not choice.allows_parallel)
        if own is not None:
            return grammar.calls(not choice.allows_parallel, f"@{FRAMED}")
        return grammar.text_with_calls() if held or choice.names is not None else None

    def _call_syntax(self, is_either: bool) -> CallSyntax:
        """How calls are written; `is_either` when calls stand instead of the caller's form."""
        if self._syntax is None or not self._reads_tools:
            raise UnsupportedParameter(
                "tools",
                "this model's chat template writes tool calls in a form that is not read here. "
                'Leave it out, or send tool_choice: "none".',
            )
        if not is_either:
            return self._syntax
        if not self._syntax.opening:
            raise UnsupportedParameter(
                "structured_outputs",
                "with tools, this model's calls could not be told from an answer in a form, since "
                "both are JSON. Send tool_choice none or required, or leave one of them out.",
            )
        return replace(self._syntax, other_openings=())

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


def held_tools(request: GenerateRequest) -> tuple[Tool, ...]:
    """Those whose calls always satisfy their schemas."""
    is_forced = request.tool_choice.mode == "required"
    return tuple(tool for tool in callable_tools(request) if is_forced or tool.is_strict)


def is_form_or_call(request: GenerateRequest) -> bool:
    """Whether an answer has the caller's form unless it calls a tool."""
    has_form = request.sampling.structured_outputs is not None
    return has_form and request.tool_choice.mode == "auto"


def check_arguments(tool: Tool, param: str) -> None:
    """Raises: InvalidGrammar for a schema that calls cannot be held to."""
    try:
        form = StructuredOutputs(json=arguments_schema(tool))
        schema = read_schema(form.source, param)
    except InvalidGrammar as error:
        raise InvalidGrammar(param, error.reason) from None
    if schema["type"] != "object":
        raise InvalidParameter(f"{param}.type", schema["type"], "object")


def blame_part(
    request: GenerateRequest, error: InvalidGrammar, check: Callable[[StructuredOutputs], None]
) -> None:
    """Say which part of what answers are held to is impossible. Raises: InvalidGrammar."""
    own = request.sampling.structured_outputs
    if own is not None and request.tool_choice.mode != "required":
        check(own)
    held = held_tools(request)
    for index, tool in enumerate(request.tools):
        if tool not in held:
            continue
        try:
            check(StructuredOutputs(json=arguments_schema(tool)))
        except InvalidGrammar as found:
            raise InvalidGrammar(f"tools[{index}].parameters", found.reason) from None
    raise InvalidGrammar("tools" if request.tools or own is None else own.param, error.reason)
