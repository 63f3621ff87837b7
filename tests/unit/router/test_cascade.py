"""Whether an answer will do, and whether a value is as its schema says."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from fakes.upstreams import ask
from headrace.core.output import CompletionDelta, PositionLogprobs, RequestOutput, TokenLogprob
from headrace.core.request import SamplingParams
from headrace.core.routing_config import CascadeConfig
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.usage import Usage
from headrace.router.cascade import judge, with_logprobs, without_logprobs
from headrace.router.json_form import violation

SURE = CascadeConfig(name="sure", tiers=("a", "b"), min_mean_logprob=-1.0)
FORMED = CascadeConfig(name="formed", tiers=("a", "b"))
TWICE = {"$ref": "#/a", "a": {"allOf": [{"$ref": "#/a"}, {"$ref": "#/a"}]}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def answer(text: str, *logprobs: float) -> RequestOutput:
    positions = tuple(
        PositionLogprobs(TokenLogprob(1, "x", b"x", logprob, 1)) for logprob in logprobs
    )
    delta = CompletionDelta(0, text, logprobs=positions or None, finish_reason="stop")
    return RequestOutput("r", (delta,), Usage(), True)


def test_the_mean_of_the_logprobs_decides() -> None:
    good = judge(ask(), answer("x", -0.5, -1.5), SURE)
    assert good.is_good
    assert good.confidence == pytest.approx(math.exp(-1))
    bad = judge(ask(), answer("x", -0.5, -1.6), SURE)
    assert bad.why == "mean logprob -1.05 below -1"
    assert judge(ask(), answer("x"), SURE).why == "no logprobs"
    assert judge(ask(), None, SURE).why == "no whole answer"


def test_logprobs_are_asked_for_and_taken_out_again() -> None:
    asked = with_logprobs(ask(), SURE)
    assert asked.sampling.logprobs == 0
    assert with_logprobs(ask(), FORMED) == ask()
    (shown,) = without_logprobs([answer("x", -0.5)], ask())
    assert shown.deltas[0].logprobs is None
    wanted = ask(sampling=SamplingParams(logprobs=2))
    assert with_logprobs(wanted, SURE) == wanted
    assert without_logprobs([answer("x", -0.5)], wanted)[0].deltas[0].logprobs is not None


@pytest.mark.parametrize(
    ("form", "text", "why"),
    [
        (None, "anything", ""),
        (None, "  ", "empty answer"),
        (StructuredOutputs(json=SCHEMA), '{"n": 1}', ""),
        (StructuredOutputs(json=SCHEMA), '{"n": "1"}', "not as its schema"),
        (StructuredOutputs(json=SCHEMA), "{}", "not as its schema"),
        (StructuredOutputs(json=SCHEMA), "Sure! {}", "no JSON"),
        (StructuredOutputs(json_object=True), "[]", "no JSON object"),
        (StructuredOutputs(choice=("yes", "no")), "yes", ""),
        (StructuredOutputs(choice=("yes", "no")), "Yes", "none of the choices"),
    ],
)
def test_the_form_decides(form: StructuredOutputs | None, text: str, why: str) -> None:
    request = ask(sampling=SamplingParams(structured_outputs=form))
    found = judge(request, answer(text), FORMED)
    assert found.why.startswith(why)
    assert found.is_good is (not why)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer"}, [1, 2.0], [1.5, True, "1", None]),
        ({"type": ["string", "null"]}, ["", None], [0, []]),
        ({"enum": ["a", 1]}, ["a", 1], ["b", True]),
        ({"const": False}, [False], [0, None]),
        ({"minimum": 2, "maximum": 3}, [2, 3, "text"], [1, 4]),
        ({"minLength": 1, "maxLength": 2}, ["a", "ab"], ["", "abc"]),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, [["a"]], [[], [1]]),
        (
            {"properties": {"a": True}, "additionalProperties": False},
            [{}, {"a": 1}],
            [{"b": 1}],
        ),
        ({"additionalProperties": {"type": "null"}}, [{"x": None}], [{"x": 1}]),
        ({"anyOf": [{"type": "string"}, {"minimum": 5}]}, ["x", 5], [4]),
        ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1, 2], [0, 3]),
        (
            {
                "$ref": "#/$defs/node",
                "$defs": {
                    "node": {
                        "type": "object",
                        "properties": {"next": {"$ref": "#/$defs/node"}},
                    }
                },
            },
            [{"next": {"next": {}}}],
            [{"next": {"next": 3}}, []],
        ),
        ({"unknown": 1, "pattern": "("}, ["x", 1], []),
        ({"enum": 5}, ["x", 1], []),
        ({"minimum": "x"}, [1], []),
        (TWICE, [1], []),
    ],
)
def test_schemas(schema: dict[str, Any], good: list[Any], bad: list[Any]) -> None:
    schema = json.loads(json.dumps(schema))
    assert [violation(value, schema) for value in good] == [None] * len(good)
    assert all(violation(value, schema) for value in bad)
