"""Exactly one form, of the right type and a bearable size."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.core.errors import InvalidGrammar, InvalidParameter, RequestError
from headrace.core.request import SamplingParams
from headrace.core.structured_outputs import MAX_SOURCE_BYTES, StructuredOutputs

ALLOWED = [
    ({"json": {"type": "string"}}, "json", '{"type": "string"}'),
    ({"json": '{"type": "string"}'}, "json", '{"type": "string"}'),
    ({"json": {}}, "json", "{}"),
    ({"json_object": True}, "json_object", ""),
    ({"json_object": False, "regex": "a"}, "regex", "a"),
    ({"choice": ["a", "é"]}, "choice", '["a", "\\u00e9"]'),
    ({"grammar": 'start: "a"', "choice": None}, "grammar", 'start: "a"'),
]


@pytest.mark.parametrize(("fields", "form", "source"), ALLOWED)
def test_one_form_as_text(fields: dict[str, Any], form: str, source: str) -> None:
    outputs = StructuredOutputs(**fields)
    assert (outputs.form, outputs.source) == (form, source)
    assert outputs.param == f"structured_outputs.{form}"


def test_the_order_of_properties_is_kept() -> None:
    schema = {"properties": {"z": {}, "a": {}}}
    assert list(json.loads(StructuredOutputs(json=schema).source)["properties"]) == ["z", "a"]


WRONG = [
    ({"json": True}, "json"),
    ({"json": [1]}, "json"),
    ({"json_object": 1}, "json_object"),
    ({"json_object": "yes"}, "json_object"),
    ({"regex": ""}, "regex"),
    ({"regex": 0}, "regex"),
    ({"grammar": ["a"]}, "grammar"),
    ({"choice": []}, "choice"),
    ({"choice": "ab"}, "choice"),
    ({"choice": ["a", ""]}, "choice"),
    ({"choice": ["a", 3]}, "choice"),
    ({"regex": "a", "disable_any_whitespace": True}, "disable_any_whitespace"),
    ({"json_object": True, "disable_any_whitespace": 1}, "disable_any_whitespace"),
]


@pytest.mark.parametrize(("fields", "name"), WRONG)
def test_a_wrong_type_names_its_field(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        StructuredOutputs(**fields)
    assert caught.value.param == f"structured_outputs.{name}"
    assert "; allowed: " in caught.value.message


@pytest.mark.parametrize(
    ("fields", "given"),
    [({}, "none of them"), ({"json_object": False}, "none of them"),
     ({"regex": "a", "choice": ["a"]}, "regex, choice")],
)  # fmt: skip
def test_none_and_two_forms_are_refused(fields: dict[str, Any], given: str) -> None:
    with pytest.raises(RequestError) as caught:
        StructuredOutputs(**fields)
    assert caught.value.message == (
        f"structured_outputs has {given}; allowed: exactly one of json, json_object, regex, "
        "choice, grammar."
    )


def test_a_size_has_a_limit() -> None:
    StructuredOutputs(regex="x" * MAX_SOURCE_BYTES)
    with pytest.raises(InvalidGrammar) as caught:
        StructuredOutputs(regex="é" * (MAX_SOURCE_BYTES // 2) + "x")
    assert caught.value.param == "structured_outputs.regex"
    assert f"it has {MAX_SOURCE_BYTES + 1} bytes" in caught.value.message


@pytest.mark.parametrize("value", [float("inf"), {1, 2}, object()])
def test_what_json_cannot_say_is_no_schema(value: object) -> None:
    with pytest.raises(InvalidGrammar, match="it is not JSON"):
        StructuredOutputs(json={"const": value})


def test_sampling_takes_the_record_only() -> None:
    form = StructuredOutputs(regex="a")
    assert SamplingParams(structured_outputs=form).structured_outputs is form
    with pytest.raises(InvalidParameter) as caught:
        SamplingParams(structured_outputs={"regex": "a"})  # type: ignore[arg-type]
    assert caught.value.param == "structured_outputs"
