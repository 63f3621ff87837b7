"""Schemas that cannot be held to are refused, with the place and the keyword."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.core.errors import InvalidGrammar
from headrace.sampling.json_schema import MAX_DEPTH, MAX_OPTIONAL_PROPERTIES, read_schema


def refusal(schema: Any) -> str:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    with pytest.raises(InvalidGrammar) as caught:
        read_schema(text, "x")
    assert caught.value.param == "x"
    return caught.value.reason


@pytest.mark.parametrize(
    "keyword",
    [
        *("not", "if", "then", "else", "contains", "minContains", "uniqueItems", "propertyNames"),
        *("dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties"),
        *("unevaluatedItems", "$dynamicRef", "contentEncoding", "contentSchema", "nullable"),
        *("additionalItems", "requried", "x-guidance"),
    ],
)
def test_a_keyword_without_effect_is_refused_where_it_stands(keyword: str) -> None:
    assert refusal({keyword: True}).startswith(f"the keyword {keyword!r}. ")
    inner = {"items": {"anyOf": [{}, {"properties": {"a": {keyword: {}}}}]}}
    place = "at items.anyOf[1].properties.a: "
    assert refusal(inner).startswith(f"{place}the keyword {keyword!r}. ")


@pytest.mark.parametrize("place", ["$defs", "definitions", "patternProperties"])
def test_schemas_are_found_in_every_map(place: str) -> None:
    assert refusal({place: {"k": {"not": {}}}}).startswith(f"at {place}.k: the keyword 'not'.")


def test_names_and_values_are_no_keywords() -> None:
    schema = {
        "title": "t",
        "x-order": 1,
        "type": "object",
        "properties": {"not": {"const": {"if": 1}}, "contains": {"enum": [{"not": 1}]}},
        "required": ["not"],
        "default": {"uniqueItems": True},
        "examples": [{"then": 1}],
        "additionalProperties": False,
    }
    assert read_schema(json.dumps(schema), "x") == schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"items": [{}]}, "items is a list. Use prefixItems."),
        ({"properties": []}, "properties is not an object of schemas."),
        ({"anyOf": {}}, "anyOf is not a list of schemas."),
        ({"properties": {"a": "string"}}, "at properties.a: a schema is an object, true or false."),
        ({"items": 3}, "at items: a schema is an object, true or false."),
        ("[]", "a JSON schema is an object."),
        ("{", "it is not JSON: "),
        ("[" * 100_000, "it is nested too deeply."),
    ],
)
def test_what_is_no_schema(schema: Any, reason: str) -> None:
    assert refusal(schema).startswith(reason)


@pytest.mark.parametrize(
    ("low", "high", "is_refused"),
    [
        ({"exclusiveMinimum": 1}, {"maximum": 1.5}, True),
        ({"exclusiveMinimum": 0.0}, {"exclusiveMaximum": 0.5}, True),
        ({"minimum": -1.5}, {"exclusiveMaximum": -1}, True),
        ({"exclusiveMinimum": 0}, {"maximum": 1}, False),
        ({"exclusiveMinimum": 0.5}, {"maximum": 0.9}, False),
        ({"minimum": 0}, {"maximum": 0.5}, False),
        ({"exclusiveMinimum": 3}, {}, False),
    ],
)
def test_an_open_end_that_would_be_closed_is_refused(
    low: dict[str, Any], high: dict[str, Any], is_refused: bool
) -> None:
    schema = low | high
    if is_refused:
        assert "needs the other end at least 1 away" in refusal({"items": schema})
    else:
        assert read_schema(json.dumps(schema), "x") == schema


def test_depth_has_a_limit() -> None:
    schema: dict[str, Any] = {}
    for _ in range(MAX_DEPTH - 1):
        schema = {"items": schema}
    assert read_schema(json.dumps(schema), "x") == schema
    assert refusal({"items": schema}).startswith("schemas are more than 48 deep inside each other")


def test_optional_properties_have_a_limit() -> None:
    properties = {f"p{i}": {} for i in range(MAX_OPTIONAL_PROPERTIES + 1)}
    schema = {"properties": properties, "required": ["p0"]}
    assert read_schema(json.dumps(schema), "x") == schema
    reason = refusal({"properties": {"a": {"properties": properties}}})
    assert reason.startswith("at properties.a: 401 properties are not required")
