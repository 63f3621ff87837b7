"""From a template and a request's tools to the parts of an answer and the grammar of its calls."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.byte_tokenizer import byte_tokenizer
from fakes.running_engine import ask, collect, running_engine, script
from headrace.core.errors import InvalidGrammar, InvalidParameter, UnsupportedParameter
from headrace.core.message import Message, Tool, ToolChoice
from headrace.core.output import RequestOutput
from headrace.core.structured_outputs import StructuredOutputs
from headrace.engine.answer_plan import AnswerPlanner, blame_tool
from headrace.sampling.grammar import GrammarCompiler
from headrace.text.call_syntax import HERMES

PLAIN = "{{ messages[0].content }}{% if tools and false %}<tool_call></tool_call>{% endif %}"
THINKING = f"{PLAIN}{{# <think></think> #}}"
NUMBER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOLS = (Tool("f", parameters=NUMBER | {"additionalProperties": False}), Tool("now"))
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 12}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


def chat(**fields: Any) -> Any:
    given = {"messages": (Message("user", "hi"),), "tools": TOOLS, "splits_reasoning": True}
    return ask(None, **(given | fields))


def forced(planner: AnswerPlanner, request: Any, prompt: str = "") -> StructuredOutputs | None:
    return planner.forced_form(request, planner.answer_format(request, prompt.encode()))


def accepts(form: StructuredOutputs | None, text: str) -> tuple[bool, bool]:
    """Whether a text is an answer, and whether nothing may follow it."""
    assert form is not None
    tokenizer = byte_tokenizer()
    matcher = GrammarCompiler(tokenizer, tokenizer.vocab_size).compile(form).deep_copy()
    ids = list(text.encode())
    is_whole = matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
    return is_whole, is_whole and matcher.is_stopped()


REQUIRED, ONE, NAMED = (
    ToolChoice("required"),
    ToolChoice("required", allows_parallel=False),
    ToolChoice("required", ("f",)),
)


@pytest.mark.parametrize(
    ("choice", "text", "found"),
    [
        (REQUIRED, CALL, (True, False)),
        (REQUIRED, f"{CALL}\n{NOW}\n{CALL}", (True, False)),
        (ONE, NOW, (True, True)),
        (NAMED, CALL, (True, True)),
        (NAMED, NOW, (False, False)),
        (REQUIRED, "hello", (False, False)),
        (REQUIRED, CALL.replace("12", '"12"'), (False, False)),
        (REQUIRED, CALL.replace("12", '12, "b": 1'), (False, False)),
        (REQUIRED, NOW.replace("{}", '{"x": 1}'), (False, False)),
        (REQUIRED, CALL.replace("</tool_call>", ""), (False, False)),
        (REQUIRED, f"<think>Hm.</think>{CALL}", (False, False)),
    ],
)
def test_forced_calls(choice: ToolChoice, text: str, found: tuple[bool, bool]) -> None:
    planner = AnswerPlanner(byte_tokenizer(), PLAIN)
    assert accepts(forced(planner, chat(tool_choice=choice)), text) == found


@pytest.mark.parametrize(
    ("prompt", "text", "is_whole"),
    [
        ("", f"<think>\nHm, a < b.\n</think>\n\n{CALL}", True),
        ("", CALL, True),
        ("", f"Hm.</think>{CALL}", False),
        ("assistant\n<think>\n", f"Hm, </thin.\n</think>\n\n{CALL}", True),
        ("assistant\n<think>\n", CALL, False),
        ("<think>\n\n</think>\n\n", CALL, True),
    ],
)
def test_reasoning_comes_before_a_forced_call(prompt: str, text: str, is_whole: bool) -> None:
    planner = AnswerPlanner(byte_tokenizer(), THINKING)
    assert accepts(forced(planner, chat(tool_choice=REQUIRED), prompt), text)[0] is is_whole


def test_what_is_not_forced_has_no_form() -> None:
    planner = AnswerPlanner(byte_tokenizer(), PLAIN)
    for choice in (ToolChoice(), ToolChoice("none"), ToolChoice("auto", ("f",))):
        assert forced(planner, chat(tool_choice=choice)) is None


def test_the_parts_of_an_answer() -> None:
    planner = AnswerPlanner(byte_tokenizer(), THINKING)
    form = planner.answer_format(chat(), b"<think>\n")
    assert (form.calls, form.tool_names, form.max_calls) == (HERMES, ("f", "now"), None)
    assert form.reasoning is not None
    assert form.is_reasoning_open
    choice = ToolChoice("auto", ("now",), allows_parallel=False)
    form = planner.answer_format(chat(tool_choice=choice, splits_reasoning=False), b"")
    assert (form.reasoning, form.tool_names, form.max_calls) == (None, ("now",), 1)
    none = planner.answer_format(chat(tool_choice=ToolChoice("none")), b"")
    assert none.calls is None


def test_what_cannot_be_is_refused_by_name() -> None:
    planner = AnswerPlanner(byte_tokenizer(), PLAIN)
    with pytest.raises(InvalidParameter, match="tool_choice is 'g'; allowed: f, now"):
        forced(planner, chat(tool_choice=ToolChoice("required", ("g",))))
    with pytest.raises(InvalidParameter, match="tool_choice is 'required'"):
        forced(planner, chat(tools=(), tool_choice=REQUIRED))
    unread = AnswerPlanner(byte_tokenizer(), "{{ tools }}<function=f>")
    with pytest.raises(UnsupportedParameter, match="tools is not supported"):
        unread.answer_format(chat(), b"")
    bad = (TOOLS[0], Tool("bad", parameters={"properties": {"x": {"not": {}}}}))
    with pytest.raises(InvalidGrammar, match="keyword 'not'") as caught:
        forced(planner, chat(tools=bad, tool_choice=REQUIRED))
    assert caught.value.param == "tools[1].parameters"

    def check(form: StructuredOutputs) -> None:
        if "x" in form.source:
            raise InvalidGrammar(form.param, "too hard.")

    request = chat(tools=(*TOOLS, Tool("x", parameters={"properties": {"x": {}}})))
    with pytest.raises(InvalidGrammar, match="too hard") as caught:
        blame_tool(request, InvalidGrammar("structured_outputs.grammar", "no."), check)
    assert caught.value.param == "tools[2].parameters"


async def answer(text: str, **fields: Any) -> RequestOutput:
    async with running_engine(script(text), template=THINKING) as running:
        output = await collect(running.backend, chat(max_tokens=len(text), **fields))
        await running.until_idle()
        return output


async def test_an_answer_comes_in_parts() -> None:
    text = f"<think>\nHm.\n</think>\n\nSo.\n{CALL}\n{NOW}"
    output = await answer(text, logprobs=0)
    (delta,) = output.deltas
    assert (delta.reasoning, delta.text) == ("Hm.", "So.")
    assert [(c.index, c.name, c.arguments) for c in delta.tool_calls] == [
        (0, "f", '{"a": 12}'),
        (1, "now", "{}"),
    ]
    assert bytes(delta.token_ids) == text.encode()
    assert len(delta.logprobs or ()) == len(text)
    # from the token that completes the opening mark to that of the closing one
    assert output.usage.reasoning_tokens == len(">\nHm.\n</think>")
    assert delta.finish_reason == "length"


async def test_the_last_call_that_is_allowed_ends_the_request() -> None:
    choice = ToolChoice(allows_parallel=False)
    output = await answer(f"{CALL}\n{NOW}", tool_choice=choice)
    (delta,) = output.deltas
    assert [call.name for call in delta.tool_calls] == ["f"]
    assert (delta.finish_reason, delta.stop_reason) == ("tool_calls", None)
    assert output.usage.output_tokens < len(CALL)


async def test_without_the_wish_reasoning_and_calls_stay_text() -> None:
    text = f"<think>\nHm.\n</think>\n\n{CALL}"
    output = await answer(text, tools=(), splits_reasoning=False)
    (delta,) = output.deltas
    assert (delta.text, delta.reasoning, delta.tool_calls) == (text, "", ())
    assert output.usage.reasoning_tokens == 0
