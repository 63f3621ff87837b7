"""From a template and a request's tools to the parts of an answer and the grammar of its calls."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.byte_tokenizer import VOCAB_SIZE, byte_tokenizer
from fakes.running_engine import ask, collect, running_engine, script
from headrace.core.errors import InvalidGrammar, InvalidParameter, UnsupportedParameter
from headrace.core.message import Message, Tool, ToolChoice
from headrace.core.output import RequestOutput, join_calls
from headrace.core.structured_outputs import StructuredOutputs
from headrace.engine.answer_plan import AnswerPlanner, blame_part
from headrace.sampling.grammar import GrammarCompiler
from headrace.text.answer_parts import AnswerParts
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
    return planner.held_form(request, planner.answer_format(request, prompt.encode()))


COMPILER = GrammarCompiler(byte_tokenizer(), VOCAB_SIZE)


def matcher_of(form: StructuredOutputs | None) -> Any:
    assert form is not None
    return COMPILER.compile(form).deep_copy()


def accepts(form: StructuredOutputs | None, text: str) -> tuple[bool, bool]:
    """Whether a text is an answer, and whether nothing may follow it."""
    matcher = matcher_of(form)
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
    for choice in (ToolChoice(), ToolChoice("none"), ToolChoice(allows_parallel=False)):
        assert forced(planner, chat(tool_choice=choice)) is None
    none = chat(tools=STRICT, tool_choice=ToolChoice("none"))
    assert forced(planner, none) is None


STRICT = (replace(TOOLS[0], is_strict=True), TOOLS[1])
FENCED_CALL = '```json\n[\n  {"name": "f",\n "parameters": {\n  "a": 5}\n }]\n```'
BARE_CALL = '{"name": "f", "arguments": {"a": 5}}'


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("", True),
        ("Some text, <tool_ca and ```json\n[1]``` and {", True),
        (f"So:\n{CALL}", True),
        (f"{CALL}\n{NOW} and then {CALL}.", True),
        (CALL.replace("12", '"12"'), False),
        (f"{NOW} text {CALL.replace('12', '[]')}", False),
        ("<tool_call>\nhello", False),
        ('<tool_call>\n{"name": "g', False),
        # No schema holds the tool that is not strict.
        (NOW.replace("{}", '{"odd": [1, {"x": null}]}'), True),
        (NOW.replace("{}", "5"), False),
        (FENCED_CALL, True),
        (f"Look: {FENCED_CALL}", True),
        (FENCED_CALL.replace("5", "true"), False),
        (FENCED_CALL.replace('"f"', '"now"').replace("5", "true"), True),
        (FENCED_CALL.replace('"f"', '"Alice"').replace("5", "true"), True),
        (BARE_CALL, True),
        (f" {BARE_CALL}; {BARE_CALL}\n{BARE_CALL}", True),
        (BARE_CALL.replace("5", "true"), False),
        (f"{BARE_CALL}; {BARE_CALL.replace('5', 'true')}", False),
        (f"Look: {BARE_CALL.replace('5', 'true')}", True),  # text, to the parser too
    ],
)
def test_calls_of_strict_tools_in_free_text(text: str, is_whole: bool) -> None:
    planner = AnswerPlanner(byte_tokenizer(), PLAIN)
    assert accepts(forced(planner, chat(tools=STRICT)), text) == (is_whole, False)


@pytest.mark.parametrize(
    ("prompt", "text", "is_whole"),
    [
        ("", f"<think>\n<tool_call> {{ </think>\n\nSo:\n{CALL}", True),
        ("", "<think>\nonly this", True),
        ("", f"<think>Hm</think>{CALL.replace('12', '[]')}", False),
        ("<think>\n", f"<tool_call>?</think>{BARE_CALL}", True),
        ("<think>\n", f"<tool_call>?</think>{BARE_CALL.replace('5', '[]')}", False),
    ],
)
def test_reasoning_is_free_before_calls_of_strict_tools(
    prompt: str, text: str, is_whole: bool
) -> None:
    planner = AnswerPlanner(byte_tokenizer(), THINKING)
    assert accepts(forced(planner, chat(tools=STRICT), prompt), text)[0] is is_whole


def test_a_subset_is_held_to_its_names() -> None:
    planner = AnswerPlanner(byte_tokenizer(), PLAIN)
    form = forced(planner, chat(tool_choice=ToolChoice("auto", ("now",))))
    for text, is_whole in ((NOW, True), ("Text.", True), (CALL, False)):
        assert accepts(form, text)[0] is is_whole


MISTRALS = {
    "[TOOL_CALLS] tools": '[TOOL_CALLS][{"name": "f", "arguments": {"a": 5}}, '
    '{"name": "now", "arguments": {"b": 0}}]',
    "[TOOL_CALLS] [ARGS] tools": '[TOOL_CALLS]f[ARGS]{"a": 5}[TOOL_CALLS]now[ARGS]{}',
    '<|start_header_id|> "parameters" tools': '<|python_tag|>{"name": "f", "parameters": {"a": 5}}',
}


@pytest.mark.parametrize("template", MISTRALS)
def test_calls_of_strict_tools_in_other_families(template: str) -> None:
    planner, call = AnswerPlanner(byte_tokenizer(), template), MISTRALS[template]
    form = forced(planner, chat(tools=STRICT))
    for text, is_whole in ((call, True), (f"Text {call}", True), (call.replace("5", "[]"), False)):
        assert accepts(form, text)[0] is is_whole


FORM = StructuredOutputs(json=NUMBER)
FORMS = (
    FORM,
    StructuredOutputs(grammar='start: "{\\"a\\": " /[0-9]+/ "}"'),
    StructuredOutputs(regex=r"\{.*\}"),
    StructuredOutputs(choice=['{"a": 12}', "b"]),
)


@pytest.mark.parametrize("own", FORMS)
def test_an_answer_in_the_callers_form_or_a_call(own: StructuredOutputs) -> None:
    planner = AnswerPlanner(byte_tokenizer(), PLAIN)
    form = forced(planner, chat(tools=STRICT, structured_outputs=own))
    for text, is_whole in (
        ('{"a": 12}', True), (CALL, True), (f"{CALL}\n{NOW}", True), ("Hello", False),
        (CALL.replace("12", "true"), False), (f'{CALL}\n{{"a": 12}}', False),
    ):  # fmt: skip
        assert accepts(form, text)[0] is is_whole, text
    single = chat(structured_outputs=own, tool_choice=ToolChoice(allows_parallel=False))
    assert accepts(forced(planner, single), f"{CALL}\n{NOW}") == (False, False)
    for choice, text in ((REQUIRED, CALL), (ToolChoice("none"), '{"a": 12}')):
        form = forced(planner, chat(structured_outputs=own, tool_choice=choice))
        assert accepts(form, text)[0]
        assert not accepts(form, CALL if text != CALL else '{"a": 12}')[0]


@pytest.mark.parametrize("own", FORMS)
@pytest.mark.parametrize("tools", [(), STRICT])
def test_the_callers_form_begins_after_reasoning(
    own: StructuredOutputs, tools: tuple[Tool, ...]
) -> None:
    planner = AnswerPlanner(byte_tokenizer(), THINKING)
    for prompt, text, is_whole in (
        ("", '<think>\nHm {"b"\n</think>\n\n{"a": 12}', True), ("", '{"a": 12}', True),
        ("", "<think>\nHm", False), ("", "<think>\nHm</think>Hello", False),
        ("<think>\n", 'Hm.</think>\n{"a": 12}', True), ("<think>\n", '{"a": 12}', False),
    ):  # fmt: skip
        form = forced(planner, chat(tools=tools, structured_outputs=own), prompt)
        assert accepts(form, text)[0] is is_whole, text
    whole = chat(tools=(), structured_outputs=own, splits_reasoning=False)
    assert forced(planner, whole, "<think>\n") is own


BITS = st.sampled_from(
    [
        *("<tool_call>", "\n</tool_call>", "<|python_tag|>", "```json", "```", "\n", " ", "{", "}"),
        *("[", "]", ",", ";", ":", '"', "x", "ö", CALL, NOW, BARE_CALL, FENCED_CALL, '"a": 1}'),
        *('{"name": "f", "arguments": ', '{"name": "f", "parameters": ', '{"a": ', "1", '"f"'),
        *('{"arguments": {}, "name": "f"}', '{"function": {"name": "f", "arguments": {}}}', "true"),
        *('{"name": "now", "arguments": {"b": 1}}', '"name"', '"arguments"', "5", "-", '"id": 1'),
    ]
)


@pytest.mark.parametrize("template", [PLAIN, *MISTRALS])
@given(bits=st.lists(BITS, max_size=14))
@settings(max_examples=60, deadline=None)
def test_whatever_the_grammar_lets_through_the_parser_reads_as_held(
    template: str, bits: list[str]
) -> None:
    planner = AnswerPlanner(byte_tokenizer(), template)
    request = chat(tools=STRICT)
    form = planner.answer_format(request, b"")
    matcher = matcher_of(planner.held_form(request, form))
    text = b""
    for bit in bits:
        tokens = bit.encode()
        num_taken = matcher.try_consume_tokens(list(tokens))
        text += tokens[:num_taken]
    parser = AnswerParts(form)
    calls = join_calls((*parser.append(text.decode(errors="ignore")).calls, *parser.flush().calls))
    for call in calls[: len(calls) if matcher.is_accepting() else -1]:
        values = json.loads(call.arguments)
        if call.name == "f":
            assert {key: type(value) for key, value in values.items()} == {"a": int}


def test_many_strict_tools() -> None:
    tools = tuple(Tool(f"f{index}", parameters=NUMBER, is_strict=True) for index in range(200))
    form = forced(AnswerPlanner(byte_tokenizer(), PLAIN), chat(tools=tools))
    for call in (CALL, BARE_CALL, FENCED_CALL):
        call = call.replace('"f"', '"f199"')
        assert accepts(form, call)[0]
        assert not accepts(form, call.replace('"a"', '"b"'))[0]


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

    hard = Tool("x", parameters={"properties": {"x": {}}}, is_strict=True)
    request = chat(tools=(Tool("free", parameters={"x": 1}), *TOOLS, hard))
    with pytest.raises(InvalidGrammar, match="too hard") as caught:
        blame_part(request, InvalidGrammar("structured_outputs.grammar", "no."), check)
    assert caught.value.param == "tools[3].parameters"
    request = chat(tools=STRICT, structured_outputs=StructuredOutputs(regex="x"))
    with pytest.raises(InvalidGrammar, match="too hard") as caught:
        blame_part(request, InvalidGrammar("structured_outputs.regex", "no."), check)
    assert caught.value.param == "structured_outputs.regex"
    bare = AnswerPlanner(byte_tokenizer(), '<|start_header_id|> "parameters" tools')
    with pytest.raises(UnsupportedParameter, match="structured_outputs is not supported: with"):
        bare.answer_format(chat(structured_outputs=FORM), b"")
    big = {"properties": {"a": {"enum": ["x" * 100 * 1024]}}}
    tools = tuple(Tool(name, parameters=big, is_strict=True) for name in ("f", "g"))
    with pytest.raises(InvalidGrammar, match=r"tools cannot be enforced: it has \d+ bytes"):
        forced(planner, chat(tools=tools))
    too_big = {"properties": {"a": {"enum": ["x" * 200 * 1024]}}}
    with pytest.raises(InvalidGrammar, match=r"tools\[0\].parameters cannot .* it has \d+ bytes"):
        forced(planner, chat(tools=(Tool("f", parameters=too_big),), tool_choice=REQUIRED))


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
