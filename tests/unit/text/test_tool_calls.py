"""Tool calls found in answers: recorded ones of each family, and made-up ones, cut anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.output import join_calls
from headrace.text.call_syntax import (
    FENCED,
    FUNCTION_GEMMA,
    GEMMA4,
    HERMES,
    LLAMA3,
    MISTRAL,
    MISTRAL_ARGS,
    CallSyntax,
    find_call_syntax,
    reads_tools,
)
from headrace.text.tool_calls import Gained, ToolCallParser

NAMES = ("get_weather", "add", "now")
Found = tuple[str, list[tuple[str, str]]]
ADD = '{"a": 1, "b": [2, {"c": "}\\""}]}'
CITY = '{"city": "Zürich 🌊"}'


def parse(
    syntax: CallSyntax, pieces: list[str], names: tuple[str, ...] = NAMES, **limits: Any
) -> Found:
    parser = ToolCallParser(syntax, names, **limits)
    gained = [parser.append(piece) for piece in pieces]
    gained.append(parser.flush())
    return joined(gained)


def joined(gained: list[Gained]) -> Found:
    calls = join_calls([call for piece in gained for call in piece.calls])
    assert [call.index for call in calls] == list(range(len(calls)))
    ids = [call.id for call in calls]
    assert len(set(ids)) == len(ids)
    assert all(id_ is not None and id_.startswith("call_") for id_ in ids)
    text = "".join(piece.text for piece in gained)
    return text, [(call.name or "", call.arguments) for call in calls]


def cuts(text: str, at: list[int]) -> list[str]:
    places = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    return [text[start:end] for start, end in pairwise(places)]


HERMES_ADD = f'<tool_call>\n{{"name": "add", "arguments": {ADD}}}\n</tool_call>'
HERMES_CITY = f'<tool_call>\n{{"name": "get_weather", "arguments": {CITY}}}\n</tool_call>'
MISTRAL_TWO = (
    f'[TOOL_CALLS] [{{"name": "add", "arguments": {ADD}, "id": "Ab3dEf7h9"}}, '
    f'{{"name": "get_weather", "arguments": {CITY}}}]'
)
GEMMA_CITY = (
    "<start_function_call>call:get_weather{city:<escape>Zürich 🌊<escape>}<end_function_call>"
)
GEMMA_NESTED = (
    "<start_function_call>call:add{a:1,b:[2,{c:<escape>}<escape>,d:-3.50}],deep:{x:true,y:null},"
    "unit:celsius}<end_function_call>"
)
NESTED = (
    '{"a": 1, "b": [2, {"c": "}", "d": -3.50}], "deep": {"x": true, "y": null}, "unit": "celsius"}'
)
PYTHON_CITY = "get_weather(city='Zürich 🌊')"
BOTH = [("add", ADD), ("get_weather", CITY)]

RECORDED: list[tuple[CallSyntax, str, Found]] = [
    (HERMES, "Hello, there.\n", ("Hello, there.\n", [])),
    (HERMES, "", ("", [])),
    (HERMES, HERMES_ADD, ("", [("add", ADD)])),
    (HERMES, f"Let me see.\n\n{HERMES_ADD}\n{HERMES_CITY}\n", ("Let me see.", BOTH)),
    (HERMES, f"{HERMES_ADD}{HERMES_CITY}", ("", BOTH)),
    (HERMES, f"A {HERMES_ADD} and\n {HERMES_CITY}.", ("A and.", BOTH)),
    (HERMES, HERMES_ADD[: -len("\n</tool_call>")], ("", [("add", ADD)])),
    (HERMES, HERMES_ADD.replace("}\n<", "}}\n<"), ("", [("add", ADD)])),
    (HERMES, HERMES_ADD.replace("}\n<", "\n<"), ("", [("add", ADD)])),
    (HERMES, f'{{"name": "add", "arguments": {ADD}}}', ("", [("add", ADD)])),
    (HERMES, f'```json\n{{"name": "add", "arguments": {ADD}}}\n```', ("", [("add", ADD)])),
    (HERMES, '<tool_call>{"arguments": {"x": 1}, "name": "add"}</tool_call>',
     ("", [("add", '{"x": 1}')])),
    (HERMES, '<tool_call>{"name": "add", "arguments": "{\\"x\\": 1}"}</tool_call>',
     ("", [("add", '{"x": 1}')])),
    (HERMES, '<tool_call>{"type": "function", "function": {"name": "now"}}</tool_call> done',
     (" done", [("now", "{}")])),
    (HERMES, '<tool_call>{"name": "add", "arguments": {"x": 1', ("", [("add", '{"x": 1')])),
    (HERMES, '<tool_call>{"name": "add", "arguments": {"x": 1</tool_call>',
     ("", [("add", '{"x": 1')])),
    (MISTRAL, MISTRAL_TWO, ("", BOTH)),
    (MISTRAL, f"So:{MISTRAL_TWO}", ("So:", BOTH)),
    (MISTRAL, f'[TOOL_CALLS]{{"name": "add", "arguments": {ADD}}}', ("", [("add", ADD)])),
    (MISTRAL_ARGS, f"[TOOL_CALLS]add[ARGS]{ADD}[TOOL_CALLS]get_weather[ARGS]{CITY}", ("", BOTH)),
    (MISTRAL_ARGS, f"Yes.[TOOL_CALLS]add[CALL_ID]Ab3dEf7h9[ARGS]{ADD}", ("Yes.", [("add", ADD)])),
    (MISTRAL_ARGS, MISTRAL_TWO, ("", BOTH)),
    (LLAMA3, f'{{"name": "add", "parameters": {ADD}}}', ("", [("add", ADD)])),
    (LLAMA3, f'<|python_tag|>{{"name": "add", "parameters": {ADD}}}; '
     f'{{"name": "get_weather", "parameters": {CITY}}}', ("", BOTH)),
    (LLAMA3, f' {{"type": "function", "name": "get_weather", "parameters": {CITY}}}\n',
     ("", [("get_weather", CITY)])),
    (FENCED, f'```tool_code\n{{"name": "add", "parameters": {ADD}}}\n```', ("", [("add", ADD)])),
    (FENCED, f'Sure!\n```json\n{{"name": "add", "parameters": {ADD}}}\n```\n',
     ("Sure!", [("add", ADD)])),
    (FENCED, f"Let me look.\n```tool_code\n{PYTHON_CITY}\n```\n",
     ("Let me look.", [("get_weather", CITY)])),
    (FENCED, f"```tool_code\nprint({PYTHON_CITY})\n```", ("", [("get_weather", CITY)])),
    (FENCED, f"```tool_code\nprint(default_api.{PYTHON_CITY})\n```", ("", [("get_weather", CITY)])),
    (FENCED, f"```tool_code\nnow()\n{PYTHON_CITY}\n``` Done.",
     (" Done.", [("now", "{}"), ("get_weather", CITY)])),
    (FENCED, f"```tool_code\n[now(), {PYTHON_CITY}]", ("", [("now", "{}"), ("get_weather", CITY)])),
    (FENCED, f"[{PYTHON_CITY}, now()]\n", ("", [("get_weather", CITY), ("now", "{}")])),
    (FENCED, 'tool: [now()]', ("tool: [now()]", [])),
    (FENCED, "```tool_code\nadd(a=1, b=[2, {'c': '}\"'}], d=(True, None), e=-0.5,)\n```",
     ("", [("add", '{"a": 1, "b": [2, {"c": "}\\""}], "d": [true, null], "e": -0.5}')])),
    (FUNCTION_GEMMA, GEMMA_CITY, ("", [("get_weather", CITY)])),
    (FUNCTION_GEMMA, f"Ok.\n{GEMMA_CITY}{GEMMA_NESTED}",
     ("Ok.", [("get_weather", CITY), ("add", NESTED)])),
    (FUNCTION_GEMMA, "<start_function_call>call:now{}<end_function_call>", ("", [("now", "{}")])),
    (FUNCTION_GEMMA, f"<start_function_call>call:add{ADD}<end_function_call>",
     ("", [("add", ADD)])),
    (FUNCTION_GEMMA, GEMMA_NESTED.removesuffix("<end_function_call>"), ("", [("add", NESTED)])),
    (GEMMA4, '<|tool_call>call:get_weather{city:<|"|>Zürich 🌊<|"|>}<tool_call|>'
     "<|tool_call>call:now{}<tool_call|>", ("", [("get_weather", CITY), ("now", "{}")])),
]  # fmt: skip

# What looks like a call and is none: it comes back as it is.
NO_CALLS = [
    (HERMES, "<tool_call>"),
    (HERMES, "a <tool_cal"),
    (HERMES, '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call>'),
    (HERMES, '<tool_call>\n{"name": "add", "arguments": [1]}\n</tool_call>\n'),
    (HERMES, "<tool_call>\nadd(1, 2)\n</tool_call>"),
    (HERMES, '<tool_call>\n{"name": "add", "argum'),
    (HERMES, "<tool_call><tool_call></tool_call>"),
    (HERMES, '{"name": "add"}'),
    (HERMES, '{"name": "add", "age": 3} '),
    (HERMES, '```json\n{"a": 1}\n```\n'),
    (HERMES, ' \n {"a": '),
    (MISTRAL, '[TOOL_CALLS] [{"name": "unknown", "arguments": {}}]'),
    (MISTRAL, "[TOOL_CALLS]"),
    (MISTRAL_ARGS, "[TOOL_CALLS]unknown[ARGS]{}"),
    (MISTRAL_ARGS, "[TOOL_CALLS]add{}"),
    (MISTRAL_ARGS, f"[TOOL_CALLS]{'x' * 2000}[ARGS]{{}}"),
    (LLAMA3, '<|python_tag|>brave_search.call(query="x")'),
    (LLAMA3, '{"answer": 3}'),
    (FENCED, "```tool_code\nprint(add(1, 2))\n```"),
    (FENCED, "```python\nx = {}\n```"),
    (FENCED, "```tool_code\nadd(a=b)\n```"),
    (FENCED, "```tool_code\nadd(**{'a': 1})\n```"),
    (FENCED, "```tool_code\nunknown(a=1)\n```"),
    (FENCED, "```tool_code\nimport os\nadd(a=1)\n```"),
    (FENCED, "```tool_code\nadd(a=1\n```"),
    (FENCED, "```tool_code\n```"),
    (FENCED, f"```tool_code\nadd(a={'[' * 100}{']' * 100})\n```"),
    (FENCED, "[1, 2, 3]"),
    (FENCED, "[add"),
    (FENCED, "[unknown(a=1)]"),
    (FENCED, "[add(a=1), 2]"),
    (FUNCTION_GEMMA, "<start_function_call>call:unknown{}<end_function_call>"),
    (FUNCTION_GEMMA, "<start_function_call>call:add{a:<escape>x}<end_function_call>"),
    (FUNCTION_GEMMA, "<start_function_call>add{}<end_function_call>"),
    (FUNCTION_GEMMA, "<start_function_call>call:add{a:1"),
    (GEMMA4, GEMMA_CITY),
]


@pytest.mark.parametrize(("syntax", "text", "found"), RECORDED)
def test_recorded_answers(syntax: CallSyntax, text: str, found: Found) -> None:
    assert parse(syntax, [text]) == found
    assert parse(syntax, list(text)) == found


@pytest.mark.parametrize(("syntax", "text"), NO_CALLS)
def test_what_is_no_call_comes_back_whole(syntax: CallSyntax, text: str) -> None:
    assert parse(syntax, [text]) == (text, [])
    assert parse(syntax, list(text)) == (text, [])


def test_a_good_call_after_a_bad_one() -> None:
    bad = '<tool_call>\n{"name": "nothing", "arguments": {}}\n</tool_call>'
    assert parse(HERMES, [f"{bad}\n{HERMES_ADD}"]) == (bad, [("add", ADD)])
    assert parse(HERMES, [f"<tool_call> oops {HERMES_ADD}"]) == ("<tool_call> oops", [("add", ADD)])


def test_arguments_are_passed_on_as_they_come() -> None:
    parser = ToolCallParser(HERMES, NAMES)
    assert parser.append('Hm <tool_call>\n{"name": "add", "argu') == Gained("Hm")
    begun = parser.append('ments": {"a"')
    assert [(call.name, call.arguments) for call in begun.calls] == [("add", ""), (None, '{"a"')]
    assert [call.arguments for call in parser.append(": 1").calls] == [": 1"]
    assert parser.is_in_call
    assert [call.arguments for call in parser.append("}}\n</tool").calls] == ["}"]
    assert not parser.is_in_call
    assert parser.append("_call>") == parser.flush() == Gained()


def test_the_last_call_that_is_allowed_ends_the_answer() -> None:
    parser = ToolCallParser(HERMES, NAMES, max_calls=1)
    for piece in cuts(f"{HERMES_ADD}\n{HERMES_CITY}", list(range(0, 200, 7))):
        parser.append(piece)
    assert parser.is_over
    assert parser.num_calls == 1
    assert parser.flush() == Gained()
    two = f"{HERMES_ADD}\n{HERMES_CITY}"
    assert parse(HERMES, [two], max_calls=1) == parse(HERMES, list(two), max_calls=1)


def test_exact_names_are_called_in_the_usual_order_only() -> None:
    odd = f'{{"arguments": {ADD}, "name": "add"}}'
    nested = f'{{"function": {{"name": "add", "arguments": {ADD}}}}}'
    for call in (odd, nested):
        assert parse(HERMES, [call]) == ("", [("add", ADD)])
        assert parse(HERMES, [call], exact_names=("add",)) == (call, [])
        assert parse(HERMES, [call], exact_names=("now",)) == ("", [("add", ADD)])
    assert parse(HERMES, list(HERMES_ADD), exact_names=("add",)) == ("", [("add", ADD)])


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_calls_that_come_first_or_not_at_all(size: int) -> None:
    def read(text: str) -> Found:
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        return parse(replace(HERMES, other_openings=()), pieces, come_first=True)

    assert read(f"\n{HERMES_ADD}\n{HERMES_CITY}") == (
        "",
        [("add", ADD), ("get_weather", CITY)],
    )
    for text in (f"Hm {HERMES_ADD}", f'{{"name": "add", "arguments": {ADD}}}', "<tool", "<b>", ""):
        assert read(text) == (text, [])


FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>"),
        *("```json", "```tool_code", "```", "\n", " ", "{", "}", "[", "]", ",", ";", ":", '"'),
        *('{"name": "add", "arguments": ', '{"name": "add", "parameters": ', '"name"', "add"),
        *('"arguments"', "\\", '\\"', ADD, CITY, "x", "ö🌊", HERMES_ADD, MISTRAL_TWO, "<tool"),
        *(
            '{"name": "now"}',
            '{"name": "other", "arguments": {}}',
            '"id": "123"',
            *(
                GEMMA_CITY,
                GEMMA_NESTED,
                "<start_function_call>",
                "<end_function_call>",
                "call:add{",
            ),
            *("<escape>", "a:1", "call:", "add(", "a=1", ")", "print(", PYTHON_CITY, "'", "[add("),
            *("<|tool_call>", "<tool_call|>", '<|"|>'),
            "null",
            "<think>",
        ),
    ]
)
ANSWERS = st.lists(FRAGMENTS | st.text(max_size=4), max_size=14).map("".join)
SYNTAXES = st.sampled_from([HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS, FENCED])
LOOSE = st.sampled_from([FENCED, FUNCTION_GEMMA, GEMMA4])
PLACES = st.lists(st.integers(0, 600), max_size=12)


@settings(max_examples=400, deadline=None)
@given(SYNTAXES | LOOSE, ANSWERS, PLACES, st.sampled_from([None, 1, 2]))
def test_cut_anywhere_it_is_the_same(
    syntax: CallSyntax, text: str, at: list[int], max_calls: int | None
) -> None:
    limits = {} if max_calls is None else {"max_calls": max_calls}
    whole = parse(syntax, [text], **limits)
    assert parse(syntax, cuts(text, at), **limits) == whole
    assert parse(syntax, list(text), **limits) == whole
    if not whole[1]:
        assert whole[0] == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
CALLS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(max_size=4), JSON, max_size=3)),
    min_size=1,
    max_size=3,
)


def written(syntax: CallSyntax, calls: list[tuple[str, str]]) -> str:
    """Calls as the family's template writes them."""
    objects = [
        f"{name}{syntax.arguments_marker}{arguments}"
        if syntax.arguments_marker
        else f'{{"name": "{name}", "{syntax.arguments_key}": {arguments}}}'
        for name, arguments in calls
    ]
    around = replace(syntax, opening=syntax.opening or "<|python_tag|>")
    between = "; " if syntax.between is None else syntax.between
    if syntax.is_list:
        return f"{around.opening}[{between.join(objects)}]"
    if syntax.between is None:
        return around.opening + between.join(objects)
    return between.join(
        f"{around.opening}{syntax.before}{text}{syntax.after}{syntax.closing}" for text in objects
    )


@settings(max_examples=200, deadline=None)
@given(SYNTAXES, CALLS, st.booleans(), PLACES, st.sampled_from(["", "Well.", "ö{"]))
def test_calls_as_templates_write_them_are_read(
    syntax: CallSyntax,
    calls: list[tuple[str, dict[str, object]]],
    is_ascii: bool,
    at: list[int],
    before: str,
) -> None:
    texts = [(name, json.dumps(value, ensure_ascii=is_ascii)) for name, value in calls]
    answer = before + written(syntax, texts)
    assert parse(syntax, cuts(answer, at)) == (before, texts)


def loosely(syntax: CallSyntax, value: object) -> str:
    """A value as the family's template writes it."""
    quote = syntax.quote
    if isinstance(value, str):
        return f"{quote}{value}{quote}" if quote else repr(value)
    if isinstance(value, list):
        return f"[{','.join(loosely(syntax, item) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{loosely(syntax, k)}:{loosely(syntax, v)}" for k, v in value.items())
        return f"{{{','.join(pairs)}}}"
    return json.dumps(value) if quote else repr(value)


KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)


@settings(max_examples=200, deadline=None)
@given(
    LOOSE,
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.dictionaries(KEYS, JSON, max_size=3)),
        min_size=1,
        max_size=3,
    ),
    PLACES,
    st.sampled_from(["", "Well."]),
)
def test_calls_that_are_not_json_are_read_as_they_are_meant(
    syntax: CallSyntax, calls: list[tuple[str, dict[str, Any]]], at: list[int], before: str
) -> None:
    if syntax.quote:
        answer = "".join(
            f"{syntax.opening}call:{name}{loosely(syntax, value)}{syntax.closing}"
            for name, value in calls
        )
    else:
        texts = (
            f"{name}({', '.join(f'{k}={loosely(syntax, v)}' for k, v in value.items())})"
            for name, value in calls
        )
        answer = "```tool_code\n" + "\n".join(texts) + "\n```"
    text, found = parse(syntax, cuts(before + answer, at))
    assert text == before
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


def test_strict_tools_are_not_called_in_python() -> None:
    text = "```tool_code\nadd(a=1)\n```"
    assert parse(FENCED, [text], exact_names=("add",)) == (text, [])
    held = f"<start_function_call>call:add{ADD}<end_function_call>"
    assert parse(FUNCTION_GEMMA, [held], exact_names=("add",)) == ("", [("add", ADD)])


@pytest.mark.parametrize(
    ("template", "syntax"),
    [
        ("{{ tools }}<tool_call>\n{...}</tool_call>", HERMES),
        ("{% if tools %}<tool_call><function=f>{% endif %}", None),
        ("{% if tools %}<tools>{% endif %}", None),
        ("{{ tools }}[TOOL_CALLS][{{ call }}]", MISTRAL),
        ("{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}", MISTRAL_ARGS),
        ('<|start_header_id|>{{ tools }} {"name": n, "parameters": p}', LLAMA3),
        ("<start_of_turn>{{ messages }}", FENCED),
        ("{{ tools }}```tool_code\n{{ call }}\n```", FENCED),
        ("{{ tools }}[func_name1(params_name1=params_value1, ...)]", FENCED),
        ("{{ tools }}<start_function_call>call:{{ name }}{", FUNCTION_GEMMA),
        ("{{ tools }}<|tool_call>call:{{ name }}{", GEMMA4),
        ("{{ tools }}<|tool_call|>{{ call }}", None),
    ],
)
def test_the_template_says_how_calls_are_written(template: str, syntax: CallSyntax | None) -> None:
    assert find_call_syntax(template) is syntax
    assert reads_tools(template) is ("tools" in template)


def test_texts_in_pythons_words() -> None:
    text = "```tool_code\nadd(a='''one\n'two' ''', b=\"\\u00e4\\x41\\n\\d\\'\")\n```"
    (call,) = parse(FENCED, [text])[1]
    assert json.loads(call[1]) == {"a": "one\n'two' ", "b": "äA\n\\d'"}
    text = "```tool_code\nadd(a='\\ud83c\\udf0a', b='\\U0001f30a', c='\\ud83c')\n```"
    (call,) = parse(FENCED, [text])[1]
    assert json.loads(call[1]) == {"a": "🌊", "b": "🌊", "c": "\ufffd"}


def test_a_call_that_never_ends_is_given_up_and_comes_back_whole() -> None:
    text = f"<start_function_call>call:add{{a:<escape>{'x' * 70_000}<escape>}}<end_function_call>"
    for size in (1000, 4097, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert parse(FUNCTION_GEMMA, pieces) == (text, [])


@pytest.mark.parametrize(
    ("begun", "text"),
    [
        ("Let me see.\n<tool_call>", "Let me see."),
        ("<tool_call>\n", ""),
        ('<tool_call>\n{"name": "ad', ""),
        (f"{HERMES_ADD}\n<tool_call>\n", ""),
        # No call was begun: a JSON object that may be the answer, and a mark that is not whole.
        ('{"name": "ad', '{"name": "ad'),
        ("a <tool", "a <tool"),
    ],
)
def test_what_is_cut_off_of_a_call_is_no_text(begun: str, text: str) -> None:
    for pieces in ([begun], list(begun)):
        parser = ToolCallParser(HERMES, NAMES)
        gained = [parser.append(piece) for piece in pieces]
        found, calls = joined([*gained, parser.flush(is_cut=True)])
        assert (found, calls) == (text, [("add", ADD)] if HERMES_ADD in begun else [])


CUT_OFF = [
    (MISTRAL, '[TOOL_CALLS] [{"name": "add", "argu', {}, ""),
    (MISTRAL_ARGS, "So: [TOOL_CALLS]add[AR", {}, "So:"),
    (FENCED, "```tool_code\nadd(a=1", {}, ""),
    (FENCED, "[add(a=1, ", {}, ""),
    (FUNCTION_GEMMA, "<start_function_call>call:add{a:", {}, ""),
    (LLAMA3, '<|python_tag|>{"name": "a', {}, ""),
    (LLAMA3, '{"name": "add", "parameters"', {}, ""),
    (LLAMA3, '{"name": "ad', {}, ""),
    (HERMES, '```json\n{"name": "add", "arg', {}, ""),
    # They begin like calls, and may be answers.
    (LLAMA3, '{"name": "Alice", "age"', {}, '{"name": "Alice", "age"'),
    (LLAMA3, '{"na', {}, '{"na'),
    (HERMES, '```json\n{"a": 1, "b', {}, '```json\n{"a": 1, "b'),
    (FENCED, "```", {}, "```"),
    (FENCED, "[ad", {}, "[ad"),
    # Where nothing but calls is asked for, nothing is an answer.
    (LLAMA3, '{"na', {"stand_alone": True}, ""),
    (FENCED, "```to", {"stand_alone": True}, ""),
    (HERMES, '{"name": "ad', {"stand_alone": True}, ""),
    (HERMES, "\n", {"stand_alone": True}, ""),
]


@pytest.mark.parametrize(("syntax", "begun", "limits", "text"), CUT_OFF)
def test_a_call_of_any_form_that_is_cut_off(
    syntax: CallSyntax, begun: str, limits: dict[str, bool], text: str
) -> None:
    for pieces in ([begun], list(begun)):
        parser = ToolCallParser(syntax, NAMES, **limits)
        gained = [parser.append(piece) for piece in pieces]
        assert joined([*gained, parser.flush(is_cut=True)]) == (text, [])


@pytest.mark.parametrize("begun", ["<tool_call>\n", '<tool_call>{"name": "ad', "a ```tool_code\n"])
def test_what_a_model_ends_by_itself_stays(begun: str) -> None:
    for syntax in (HERMES, FENCED):
        assert parse(syntax, [begun]) == (begun, [])
