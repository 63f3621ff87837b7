"""Masks against brute force, every enforced keyword, ends, limits; tokens are bytes here."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import pytest
from llguidance import LLParserLimits

from fakes.byte_tokenizer import BOS, EOS, byte_tokenizer
from headrace.core.errors import InvalidGrammar
from headrace.core.structured_outputs import StructuredOutputs
from headrace.sampling import grammar
from headrace.sampling.grammar import GrammarCompiler
from headrace.sampling.json_schema import _ENFORCED
from headrace.sampling.logits_rule import LogitsRule, LogitsRules

VOCAB_SIZE = 320  # some ids past the tokenizer's, as in real models


@pytest.fixture(scope="module")
def rules() -> LogitsRules:
    return LogitsRules(byte_tokenizer, VOCAB_SIZE)


def allowed(rule: LogitsRule) -> set[int]:
    mask = rule.mask()
    assert (mask.dtype, mask.shape) == (np.uint32, (VOCAB_SIZE // 32,))
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


def follow(rules: LogitsRules, rule: LogitsRule, text: bytes) -> bool:
    """Feed a text; False where a byte was not allowed."""
    for byte in text:
        if rule.is_complete or byte not in allowed(rule):
            return False
        rule.append(byte)
        if not rule.is_complete:
            rules.begin([rule])
    return True


def accepts(rules: LogitsRules, form: StructuredOutputs, text: str) -> bool:
    rule = rules.open(form)
    return follow(rules, rule, text.encode()) and (rule.is_complete or EOS in allowed(rule))


@pytest.mark.parametrize("regex", ["(ab|ac*)d?", "[abc]{2,3}", "a*", "(a|b)*abb", "ab?c?d?|d"])
def test_masks_are_what_brute_force_says(rules: LogitsRules, regex: str) -> None:
    letters = "abcd"
    texts = ["".join(t) for size in range(8) for t in product(letters, repeat=size)]
    matches = {text for text in texts if re.fullmatch(regex, text)}
    beginnings = {text[:end] for text in matches for end in range(len(text) + 1)}
    for text in sorted(beginnings):
        if len(text) > 3:  # longer matches than were listed may begin with it
            continue
        rule = rules.open(StructuredOutputs(regex=regex))
        assert follow(rules, rule, text.encode())
        going_on = {ord(letter) for letter in letters if text + letter in beginnings}
        assert rule.is_complete == (not going_on)
        if not rule.is_complete:
            assert allowed(rule) == going_on | ({EOS} if text in matches else set())


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "null"}}}
KEYWORDS: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "type": ({"type": ["integer", "null"]}, [3, None], ["3", 1.5, []]),
    "enum": ({"enum": ["x", 1, {"k": [2]}]}, ["x", 1, {"k": [2]}], ["y", 2, {}]),
    "const": ({"const": {"k": 1}}, [{"k": 1}], [{"k": 2}, 1]),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"const": "a"}]}, [1, "a"], ["b"]),
    "oneOf": ({"oneOf": [{"type": "integer"}, {"const": "a"}]}, [1, "a"], ["b"]),
    "allOf": (
        {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 4}]}, [3, 4], [2, 5]
    ),
    "$ref": (
        {"$ref": "#/$defs/t", "$defs": {"t": {"items": {"$ref": "#/$defs/t"}, "type": "array"}}},
        [[], [[], [[]]]], [1, [1]],
    ),
    "$defs": ({"$defs": {"t": {"const": 1}}, "$ref": "#/$defs/t"}, [1], [2]),
    "definitions": ({"definitions": {"t": {"const": 1}}, "$ref": "#/definitions/t"}, [1], [2]),
    "properties": (OBJECT, [{}, {"a": 1}, {"a": 1, "b": None}, {"c": 1}], [{"a": "1"}, {"b": 1}]),
    "required": (OBJECT | {"required": ["b"]}, [{"b": None}], [{}, {"a": 1}]),
    "additionalProperties": (OBJECT | {"additionalProperties": False}, [{"a": 1}], [{"c": 1}]),
    "patternProperties": (
        {"type": "object", "patternProperties": {"^x": {"type": "null"}},
         "additionalProperties": False},
        [{}, {"x1": None}], [{"x1": 1}, {"y": None}],
    ),
    "minProperties": ({"type": "object", "minProperties": 1}, [{"a": 1}], [{}]),
    "maxProperties": ({"type": "object", "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}]),
    "items": ({"type": "array", "items": {"type": "integer"}}, [[], [1, 2]], [["a"]]),
    "prefixItems": (
        {"type": "array", "prefixItems": [{"const": 1}], "items": False}, [[1]], [[2], [1, 1]]
    ),
    "minItems": ({"type": "array", "minItems": 2}, [[1, 2]], [[1]]),
    "maxItems": ({"type": "array", "maxItems": 1}, [[], [1]], [[1, 2]]),
    "minLength": ({"type": "string", "minLength": 2}, ["ab", "日本"], ["a", "日"]),
    "maxLength": ({"type": "string", "maxLength": 2}, ["ab", "日本"], ["abc", "日本語"]),
    "pattern": ({"type": "string", "pattern": "^a[0-9]+$"}, ["a1"], ["a", "1"]),
    "format": ({"type": "string", "format": "date"}, ["2026-01-31"], ["2026-13-01", "x"]),
    "multipleOf": ({"type": "integer", "multipleOf": 7}, [0, 14, -7], [1, 15]),
    "minimum": ({"type": "integer", "minimum": -3}, [-3, 100], [-4]),
    "maximum": ({"type": "number", "maximum": 2.5}, [2.5, -1], [2.6, 3]),
    "exclusiveMinimum": ({"type": "integer", "exclusiveMinimum": 3}, [4], [3]),
    "exclusiveMaximum": ({"type": "integer", "exclusiveMaximum": 3}, [2], [3]),
}  # fmt: skip


def test_every_keyword_that_is_let_through_has_a_case() -> None:
    assert set(KEYWORDS) == set(_ENFORCED)


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_a_keyword_is_enforced(rules: LogitsRules, keyword: str) -> None:
    schema, good, bad = KEYWORDS[keyword]
    form = StructuredOutputs(json=schema)
    rules.check(form)
    for value in good:
        assert accepts(rules, form, json.dumps(value, ensure_ascii=False)), value
    for value in bad:
        assert not accepts(rules, form, json.dumps(value, ensure_ascii=False)), value


@pytest.mark.parametrize("low", [None, -1.5, -1, 0, 0.5, 1])
@pytest.mark.parametrize("high", [None, -0.5, 0.5, 1, 2.5])
def test_ranges_of_numbers(rules: LogitsRules, low: float | None, high: float | None) -> None:
    """No number outside is allowed, with open and closed ends."""
    for low_name, high_name in product(
        ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
    ):
        ends = {low_name: low, high_name: high}
        schema = {"type": "number"} | {k: v for k, v in ends.items() if v is not None}
        form = StructuredOutputs(json=schema)
        try:
            rules.check(form)
        except InvalidGrammar:
            continue
        for text in ("-2", "-1.5", "-1", "-0.9", "-0.5", "0", "0.1", "0.5", "1", "1.5", "2.5", "3"):
            value = float(text)
            above = low is None or value > low or (value == low and low_name == "minimum")
            below = high is None or value < high or (value == high and high_name == "maximum")
            assert accepts(rules, form, text) == (above and below), (schema, text)


def test_space_in_json_is_bounded_and_can_be_none(rules: LogitsRules) -> None:
    some, none = (
        StructuredOutputs(json_object=True, disable_any_whitespace=w) for w in (False, True)
    )
    assert accepts(rules, some, '{\n  "a": [1, 2],\n\t"b": {}\r\n}')
    assert accepts(rules, some, "{\n" + " " * 48 + "}")
    assert accepts(rules, some, "{\r\n" + "\t" * 16 + "}")
    for space in ("\n" + " " * 49, "\n\n", " \t", " " * 5):
        assert not accepts(rules, some, "{" + space + "}"), repr(space)
    assert not accepts(rules, some, ' {"a": 1}')
    assert accepts(rules, none, '{"a":[1,2]}')
    assert not accepts(rules, none, '{"a": [1]}')


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (StructuredOutputs(choice=["yes", "no", "none", 'q"\n']), ["no", 'q"\n'], ["n", "yesno"]),
        (StructuredOutputs(regex=r"^\d{3}-[a-z]+$"), ["123-ab"], ["12-ab", "123-"]),
        (StructuredOutputs(grammar='start: "a" b\nb: /[0-9]+/'), ["a12"], ["a", "b1"]),
        (StructuredOutputs(grammar='root ::= "(" root ")" | [x-z]'), ["x", "((y))"], ["((y)"]),
        (StructuredOutputs(grammar='start: %json {"type": "null"}'), ["null"], ["1"]),
    ],
)  # fmt: skip
def test_the_other_forms(
    rules: LogitsRules, form: StructuredOutputs, good: list[str], bad: list[str]
) -> None:
    rules.check(form)
    assert all(accepts(rules, form, text) for text in good)
    assert not any(accepts(rules, form, text) for text in bad)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def is_person(text: str) -> bool:
    value = json.loads(text)
    return (
        list(value) == ["name", "age", "tags"]
        and len(value["name"]) <= 8
        and 0 <= value["age"] <= 150
        and len(value["tags"]) <= 2
        and set(value["tags"]) <= {"a", "b"}
    )


WALKS: list[tuple[StructuredOutputs, Callable[[str], object]]] = [
    (StructuredOutputs(json=PERSON), is_person),
    (StructuredOutputs(regex=r"(.{1,3}, ){2}é+!"), re.compile(r"(.{1,3}, ){2}é+!").fullmatch),
    (StructuredOutputs(choice=["one", "two", "only"]), {"one", "two", "only"}.__contains__),
]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("form", "is_right"), WALKS)
def test_any_allowed_bytes_make_a_right_answer(
    rules: LogitsRules, form: StructuredOutputs, is_right: Callable[[str], object], seed: int
) -> None:
    rng, rule, text = random.Random(seed), rules.open(form), b""
    while not rule.is_complete:
        may = allowed(rule)
        assert may <= {*range(256), EOS}, "no control token, no padding"
        if EOS in may:
            break
        token = rng.choice(sorted(may))
        text += bytes([token])
        rule.append(token)
        rules.begin([rule])
        assert rule.error is None
    assert is_right(text.decode())


def test_ends_only_where_the_form_may_end(rules: LogitsRules) -> None:
    rule = rules.open(StructuredOutputs(regex="ab*"))
    assert allowed(rule) == {ord("a")}
    assert follow(rules, rule, b"ab")
    assert allowed(rule) == {ord("b"), EOS}
    rule.append(EOS)
    assert not rule.is_complete, "the end token ends the answer by itself"
    deaf = rules.open(StructuredOutputs(regex="ab*"), ignore_eos=True)
    assert follow(rules, deaf, b"ab")
    assert allowed(deaf) == {ord("b")}


def test_control_tokens_are_no_text(rules: LogitsRules) -> None:
    rule = rules.open(StructuredOutputs(regex="(?s:.*)<bos>"))
    assert BOS not in allowed(rule)
    assert follow(rules, rule, b"<bos>")


REFUSED = [
    ({"regex": "("}, "unclosed group"),
    ({"regex": "a(?=b)"}, "look-around"),
    ({"regex": r"(a)\1"}, "backreferences are not supported"),
    ({"regex": "()"}, "it allows no text, or none but the empty one."),
    ({"regex": "\ud800"}, "surrogates not allowed"),
    ({"choice": ["\ud800"]}, "unexpected end of hex escape"),
    ({"grammar": "start: start"}, "no answer satisfies it."),
    ({"grammar": "start: other"}, 'unknown name: "other"'),
    ({"grammar": "nonsense"}, "Expected ::="),
    ({"grammar": "root ::= "}, ""),
    ({"grammar": "root ::= " + "(" * 3000}, "it is nested too deeply."),
    ({"grammar": "start: " + "(" * 3000}, "too deeply nested"),
    ({"grammar": '%llguidance {"no_forcing": false}\nstart: "a"'}, "is not open to grammars"),
    ({"json": {"$ref": "#"}}, "no answer satisfies it."),
    ({"json": {"$ref": "#/nowhere"}}, "Pointer '/nowhere' does not exist"),
    ({"json": {"$ref": "http://127.0.0.1:1/x"}}, "retrieving it failed"),
    ({"json": {"type": "string", "format": "colour"}}, "Unknown format: colour."),
    ({"json": {"type": "colour"}}, "Invalid type: colour."),
    ({"json": {"type": "integer", "minimum": 5, "maximum": 3}}, "minimum (5) is greater"),
    ({"json": {"oneOf": [{"type": "string"}, {"maxLength": 3}]}}, "oneOf"),
    ({"json": {"minimum": 10**400}}, "number out of range"),
    ({"json": {"enum": []}}, "anyOf is empty"),
    ({"json": {"minProperties": 1, "properties": {"a": {}, "b": {}}}}, "min/maxProperties"),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED)
def test_what_cannot_be_held_to_is_refused(
    rules: LogitsRules, fields: dict[str, Any], reason: str
) -> None:
    form = StructuredOutputs(**fields)
    with pytest.raises(InvalidGrammar) as caught:
        rules.check(form)
    assert caught.value.param == form.param
    assert reason in caught.value.reason
    assert len(caught.value.message) < 500
    assert "no_forcing" not in caught.value.message or "grammar" in fields
    unchecked = rules.open(form)
    assert allowed(unchecked) == set()
    assert unchecked.error == caught.value.message


BOMBS = [
    {"regex": "((a{1000}){1000}){1000}"},
    {"regex": "(.*a){30}.{500}"},
    {"regex": "|".join(f"(ab{i}c)*" for i in range(3000))},
    {"grammar": 'start: e\ne: e e | "a" | e e e |'},
    {"grammar": 'start: A\nA: /(a|b)*a.{20}/ & /.*b.{22}/ & ~/.*c.{15}/'},
    {"json": {"allOf": [{"anyOf": [{"properties": {f"k{i}": {"const": j}}} for j in range(6)]}
                        for i in range(6)]}},
    {"json": {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 10}
                        for i in range(10)} | {"d10": {"type": "string"}}, "$ref": "#/$defs/d0"}},
    {"json": {"properties": {f"p{i}": {} for i in range(400)}}},
    {"json": {"type": "array", "minItems": 10**6, "items": {"type": "integer", "minimum": 7}}},
]  # fmt: skip


@pytest.mark.parametrize("fields", BOMBS)
def test_a_hostile_form_is_refused_or_followed(rules: LogitsRules, fields: dict[str, Any]) -> None:
    """That it comes to an end at all is the test; a hang is cut by pytest-timeout."""
    form, rng = StructuredOutputs(**fields), random.Random(0)
    try:
        rules.check(form)
    except InvalidGrammar:
        return
    rule = rules.open(form)
    for _ in range(20):
        may = sorted(allowed(rule) - {EOS})
        if not may:
            break
        rule.append(rng.choice(may))
        rules.begin([rule])


def test_a_limit_that_others_used_up_is_not_this_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies share a lexer: two answers meet its limit together where each alone does not."""
    limits = LLParserLimits(max_lexer_states=700, verbose_errors=False)
    monkeypatch.setattr(grammar, "_LIMITS", limits)
    rules = LogitsRules(byte_tokenizer, VOCAB_SIZE)
    branches = "|".join(f"{letter}{letter}{{100}}" for letter in "abcdefghij")
    form, failed, apart = StructuredOutputs(regex=f"({branches})"), [], 0
    for letter in "abcdefghij":
        rule = rules.open(form)
        assert follow(rules, rule, letter.encode() * 101), rule.error
        failed += [rule.error] if rule.error else []
        apart += rule._is_apart  # type: ignore[attr-defined]
    assert failed == []
    assert apart >= 1, "the limit was never met: the test shows nothing"


def test_a_limit_of_its_own_fails_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = LLParserLimits(max_lexer_states=60, verbose_errors=False)
    monkeypatch.setattr(grammar, "_LIMITS", limits)
    rules = LogitsRules(byte_tokenizer, VOCAB_SIZE)
    rule = rules.open(StructuredOutputs(regex="a{100}"))
    assert not follow(rules, rule, b"a" * 100)
    assert "structured_outputs.regex could not be followed to its end: " in (rule.error or "")
    assert allowed(rule) == set()


def spoil(rule: LogitsRule) -> None:
    """Have the matcher be at a limit before the next token, as its neighbours can bring it."""
    matcher = rule._matcher  # type: ignore[attr-defined]
    assert not matcher.consume_token(ord("!")) and matcher.is_error()


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize("at", range(4))
def test_a_limit_that_a_token_meets_is_not_this_answers(
    rules: LogitsRules, at: int, ignore_eos: bool
) -> None:
    rule = rules.open(StructuredOutputs(regex="a(b|c)dx"), ignore_eos)
    for index, byte in enumerate(b"acdx"):
        rules.begin([rule])
        assert byte in allowed(rule)
        if index == at:
            spoil(rule)
        rule.append(byte)
        assert rule.error is None
        assert rule.is_complete == (index == 3)


@pytest.mark.parametrize("at", range(1, 4))
def test_a_limit_of_its_own_that_a_token_meets_fails_an_answer(rules: LogitsRules, at: int) -> None:
    rule = rules.open(StructuredOutputs(regex="abcd"))
    for index, byte in enumerate(b"abcd"[: at + 1]):
        rules.begin([rule])
        assert byte in allowed(rule)
        if index in (0, at):
            spoil(rule)
        rule.append(byte)
    rules.begin([rule])
    assert allowed(rule) == set()
    assert not rule.is_complete
    assert "structured_outputs.regex could not be followed to its end: " in (rule.error or "")
    other = rules.open(StructuredOutputs(regex="ab"))
    assert follow(rules, other, b"ab") and other.is_complete


def test_what_is_kept_is_bounded() -> None:
    compiler = GrammarCompiler(byte_tokenizer(), VOCAB_SIZE)
    for index in range(grammar.MAX_KEPT + 9):
        compiler.compile(StructuredOutputs(regex=f"a{{{index + 1}}}"))
    assert len(compiler._kept) == grammar.MAX_KEPT
    for index in range(12):
        compiler.compile(StructuredOutputs(choice=[f"{index}" + "x" * 100_000]))
    kept = sum(len(source + frame) for _, source, _, frame in compiler._kept)
    assert compiler._kept_bytes == kept <= grammar.MAX_KEPT_BYTES


def test_many_threads_may_check_at_once() -> None:
    rules = LogitsRules(byte_tokenizer, VOCAB_SIZE)
    forms = [StructuredOutputs(regex=f"[a-z]{{{1 + i % 5}}}") for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(rules.check, forms))
    assert all(accepts(rules, form, "a" * (1 + i % 5)) for i, form in enumerate(forms))


def test_answers_of_one_form_do_not_disturb_each_other(rules: LogitsRules) -> None:
    form = StructuredOutputs(regex="(ab|cd)x")
    one, other = rules.open(form), rules.open(form)
    one.append(ord("a"))
    other.append(ord("c"))
    rules.begin([one, other])
    assert (allowed(one), allowed(other)) == ({ord("b")}, {ord("d")})
