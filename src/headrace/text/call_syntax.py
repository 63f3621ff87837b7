"""CallSyntax: how a model family writes tool calls, chosen from its chat template's text.

In: a template's source. Out: one row of a table, which the parser reads calls with and the grammar
forces them with. Source: the families' own templates, as their model files carry them.
"""

from __future__ import annotations

import re
from typing import Literal

from headrace.core.frozen import frozen


@frozen
class CallSyntax:
    """A family's form of a call.

    Fields:
        opening, closing: around each call, or around the list of them; "" for none.
        before, after: what stands between them and the call.
        arguments_key: of the JSON object with name and arguments.
        arguments_marker: between a name and its arguments, where there is no such object.
        is_list: the calls are one JSON list. between: what stands between two calls; None where
            a model makes one call at a time.
        other_openings: markers the family's models use too, each with its closing.
        notation: of calls that are not JSON: `gemma`, or `python` for what is no JSON after
            `opening`. They are read when they are whole: see text/loose_calls.py.
        quote: around texts in Gemma's notation.
    """

    name: str
    opening: str
    closing: str = ""
    before: str = ""
    after: str = ""
    arguments_key: str = "arguments"
    arguments_marker: str = ""
    is_list: bool = False
    between: str | None = None
    other_openings: tuple[tuple[str, str], ...] = ()
    notation: Literal["", "gemma", "python"] = ""
    quote: str = ""

    @property
    def has_bare_names(self) -> bool:
        """Whether a name stands before its arguments, and not in an object with them."""
        return bool(self.arguments_marker) or self.notation == "gemma"

    @property
    def openings(self) -> dict[str, str]:
        """Everything that begins calls, with what ends them."""
        known = {self.opening: self.closing} if self.opening else {}
        return known | dict(self.other_openings)

    @property
    def fences(self) -> tuple[str, ...]:
        """Openings that may also begin other JSON than a call."""
        return tuple(text for text in self.openings if text == JSON_FENCE)

    @property
    def own_openings(self) -> dict[str, str]:
        """Openings that nothing but calls follows."""
        return {k: v for k, v in self.openings.items() if k not in self.fences}

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts that must stay visible where they are control tokens."""
        names = (*self.openings, *self.openings.values(), self.arguments_marker, self.quote)
        return tuple(name for name in names if name) + (_CALL_ID,) * bool(self.arguments_marker)


_CALL_ID = "[CALL_ID]"
JSON_FENCE = "```json"

HERMES = CallSyntax(
    "hermes", "<tool_call>", "</tool_call>", before="\n", after="\n", between="\n",
    other_openings=((JSON_FENCE, "```"),),
)  # fmt: skip
LLAMA3 = CallSyntax(
    "llama3", "", arguments_key="parameters", other_openings=(("<|python_tag|>", ""),)
)
MISTRAL = CallSyntax("mistral", "[TOOL_CALLS]", is_list=True, between=", ")
MISTRAL_ARGS = CallSyntax("mistral_args", "[TOOL_CALLS]", arguments_marker="[ARGS]", between="")
FENCED = CallSyntax(
    "fenced", "```tool_code", "```", before="\n", after="\n", arguments_key="parameters",
    between="\n", other_openings=((JSON_FENCE, "```"),), notation="python",
)  # fmt: skip
FUNCTION_GEMMA = CallSyntax(
    "function_gemma", "<start_function_call>", "<end_function_call>", before="call:", between="",
    notation="gemma", quote="<escape>",
)  # fmt: skip
GEMMA4 = CallSyntax(
    "gemma4", "<|tool_call>", "<tool_call|>", before="call:", between="",
    notation="gemma", quote='<|"|>',
)  # fmt: skip

# Families that write arguments as tags of their own, which are not read.
_TAGGED = ("<function=", "<arg_key>", "<invoke", "<parameter")
_READS_TOOLS = re.compile(r"\btools\b")
# What templates for Gemma 3 ask its models for: fences, or Python as vLLM's template has it.
_PYTHONIC = (FENCED.opening, "func_name1(params_name1=")


def find_call_syntax(template: str) -> CallSyntax | None:
    """The syntax of calls a template teaches; None for one that is not known here.

    A template that does not read `tools` teaches none: its models are asked for `FENCED`.
    """
    for syntax in (FUNCTION_GEMMA, GEMMA4):
        if syntax.opening in template:
            return syntax
    if "[TOOL_CALLS]" in template:
        return MISTRAL_ARGS if MISTRAL_ARGS.arguments_marker in template else MISTRAL
    if any(tag in template for tag in _TAGGED):
        return None
    if HERMES.opening in template:
        return HERMES
    if "<|start_header_id|>" in template and '"parameters"' in template:
        return LLAMA3
    is_pythonic = any(mark in template for mark in _PYTHONIC)
    return None if reads_tools(template) and not is_pythonic else FENCED


def reads_tools(template: str) -> bool:
    """Whether a template shows the model its tools."""
    return _READS_TOOLS.search(template) is not None
