"""Which destination a request goes to: names, declared tasks, rules in their order, the default."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes.upstreams import ask
from headrace.core.errors import InvalidParameter
from headrace.core.message import Message, Tool, ToolChoice
from headrace.core.request import SamplingParams
from headrace.core.routing_config import (
    RoutingConfig,
    RuleConfig,
    TierBackendConfig,
    TierConfig,
)
from headrace.core.structured_outputs import StructuredOutputs
from headrace.router.features import read_facts
from headrace.router.policy import Decision, Policy, holds


def tier(name: str) -> TierConfig:
    return TierConfig(name=name, backends=(TierBackendConfig(model=name),))


POLICY = Policy(
    RoutingConfig(
        tiers=(tier("cheap"), tier("premium")),
        tasks={"categorize": "cheap", "write": "premium"},
        rules=(
            RuleConfig(name="long", use="premium", min_input_tokens=500),
            RuleConfig(name="tools", use="premium", has_tools=True),
            RuleConfig(name="never", use="premium", has_tools=True, max_input_tokens=1),
        ),
    )
)


def test_names_that_callers_may_ask_for() -> None:
    assert POLICY.model_names() == (
        "auto",
        "auto/categorize",
        "auto/write",
        "auto:cheap",
        "auto:premium",
    )


@pytest.mark.parametrize(
    ("model", "task", "expected"),
    [
        ("auto", None, Decision("cheap", "default")),
        ("auto/write", None, Decision("premium", "task", "write")),
        ("auto/write", "categorize", Decision("premium", "task", "write")),
        ("auto", "write", Decision("premium", "task", "write")),
        ("auto:premium", None, Decision("premium", "tier")),
        ("auto:cheap", "write", Decision("cheap", "tier", "write")),
    ],
)
def test_what_is_declared_decides(model: str, task: str | None, expected: Decision) -> None:
    assert POLICY.decide(ask(model=model, task=task)) == expected


def test_then_the_first_rule_that_holds() -> None:
    assert POLICY.decide(ask("word " * 600, model="auto")) == Decision("premium", "rule long")
    assert POLICY.decide(ask("hi", model="auto", tools=(Tool("f"),))).reason == "rule tools"
    long = ask("word " * 600, model="auto/categorize")
    assert POLICY.decide(long).tier == "cheap"


def test_a_task_that_nobody_defines_is_refused_with_those_that_are() -> None:
    with pytest.raises(InvalidParameter, match="categorize, write") as caught:
        POLICY.decide(ask(model="auto", task="other"))
    assert caught.value.param == "task"


@pytest.mark.parametrize(
    ("text", "has_code"),
    [
        ("def f(x):\n    return x + 1", True),
        ("Why does `for (int i = 0; i < n; i++) { s += a[i]; }` fail?", True),
        ("```\nls -l\n```", True),
        ("SELECT name FROM users WHERE id = 3;", True),
        ("<div>hello</div>", True),
        ("What is the capital of France?", False),
        ("I saw the class yesterday; it was fun, and we return tomorrow.", False),
        ("Was kostet das Brot (ungefähr)?", False),
    ],
)
def test_code(text: str, has_code: bool) -> None:
    assert read_facts(ask(text)).has_code is has_code


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the capital of this country and how do you know it?", "en"),
        ("Wie ist das Wetter und was ist mit dem Zug auf den Berg?", "de"),
        ("Quelle est la capitale et dans quel pays est-ce que vous vivez?", "fr"),
        ("¿Qué es lo que se come en las fiestas y por qué?", "es"),
        ("日本の首都はどこですか", "ja"),
        ("法国的首都是哪里", "zh"),
        ("Какая погода сегодня?", "cyrillic"),
        ("한국의 수도는 어디입니까", "ko"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert language in read_facts(ask(text)).languages


def test_what_cannot_be_told_is_no_language() -> None:
    assert read_facts(ask("ok")).languages == frozenset({"latin"})
    assert read_facts(ask("1 + 1 = 2")).languages == frozenset()


@pytest.mark.parametrize(
    ("rule", "is_held"),
    [
        ({"words": ("Urgent",)}, True),
        ({"words": ("calm",)}, False),
        ({"languages": ("en", "de")}, True),
        ({"languages": ("ja",)}, False),
        ({"has_form": True}, True),
        ({"has_form": False}, False),
        ({"has_tools": False}, True),
        ({"max_input_tokens": 3}, False),
        ({"max_input_tokens": 100, "min_input_tokens": 2, "has_code": False}, True),
    ],
)
def test_all_that_a_rule_says_is_true(rule: dict[str, object], is_held: bool) -> None:
    sampling = SamplingParams(structured_outputs=StructuredOutputs(json_object=True))
    messages = (
        Message("user", "def f(): return 1;"),
        Message("assistant", "fine"),
        Message("user", "This is urgent, what is it that you and the others know?"),
    )
    request = ask(messages=messages, sampling=sampling, tools=(Tool("f"),))
    request = replace(request, tool_choice=ToolChoice("none"))
    facts = read_facts(request)
    assert holds(RuleConfig(name="r", use="x", **rule), facts) is is_held  # type: ignore[arg-type]
