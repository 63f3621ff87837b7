"""The form an answer must have: `response_format` and `structured_outputs` of a body.

In: checked fields. Out: a core record, the names of its parts on the wire for error messages, and
keys that nobody defines. Whether a form can be held to is found out by the backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from headrace.core.errors import InvalidParameter, RequestError, UnsupportedParameter
from headrace.core.structured_outputs import FORMS, StructuredOutputs
from headrace.server.error_responses import worded
from headrace.server.generation_schema import (
    GenerationFields,
    Strict,
    allowed,
    unknown_names,
    validate,
)

_SCHEMA = "response_format.json_schema.schema"
_REFUSED = {
    "structural_tag": "Use grammar.",
    "whitespace_pattern": "Use disable_any_whitespace.",
    "disable_additional_properties": 'Write "additionalProperties": false into the schema.',
}
# Every form is enforced by the one engine there is, so that there is nothing to fall back to.
_WITHOUT_EFFECT = ("disable_fallback",)
_FORM_FIELDS = (*FORMS, "disable_any_whitespace")


class JsonSchemaFields(Strict):
    name: str = Field(
        description="1 to 64 letters, digits, _ and -", pattern="^[A-Za-z0-9_-]{1,64}$"
    )
    description: str | None = allowed("a string")
    strict: bool | None = allowed("true or false")


def read_form(fields: GenerationFields) -> tuple[StructuredOutputs | None, list[str]]:
    """The form, None for any text, and keys that nobody defines.

    Raises: RequestError.
    """
    asked = {"type": "text"} if fields.response_format is None else fields.response_format
    kind = asked.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise InvalidParameter("response_format.type", kind, "text, json_object or json_schema")
    if fields.structured_outputs is not None and kind != "text":
        raise InvalidParameter(
            "structured_outputs", fields.structured_outputs, f"nothing beside the {kind} asked for"
        )
    unknown = [f"response_format.{name}" for name in asked if name not in ("type", "json_schema")]
    if kind == "json_object":
        return StructuredOutputs(json_object=True), unknown
    if kind == "json_schema":
        form, more = _read_json_schema(asked.get("json_schema"))
        return form, unknown + more
    if fields.structured_outputs is None:
        return None, unknown
    form, more = _read_extra(fields.structured_outputs)
    return form, unknown + more


def form_wire_names(fields: GenerationFields) -> dict[str, str]:
    """What the backend's words for a form are in the words of this body."""
    if fields.structured_outputs is not None:
        return {}
    return {
        "structured_outputs.json": _SCHEMA,
        "structured_outputs.json_object": "response_format",
        "structured_outputs": "response_format",
    }


def _read_json_schema(value: object) -> tuple[StructuredOutputs, list[str]]:
    if not isinstance(value, dict):
        raise InvalidParameter(
            "response_format.json_schema", value, "an object with name and schema"
        )
    fields = validate(JsonSchemaFields, value, "response_format.json_schema.")
    schema = value.get("schema")
    if schema is None:
        raise RequestError(
            f"{_SCHEMA} is missing; give a JSON schema.", _SCHEMA, "missing_required_parameter"
        )
    if not isinstance(schema, dict):
        raise InvalidParameter(_SCHEMA, schema, "a JSON schema: an object")
    with worded({"structured_outputs.json": _SCHEMA}):
        form = StructuredOutputs(json=schema)
    return form, unknown_names(fields, ("schema",), "response_format.json_schema.")


def _read_extra(value: Mapping[str, Any]) -> tuple[StructuredOutputs, list[str]]:
    for name, reason in _REFUSED.items():
        if value.get(name) not in (None, False):
            raise UnsupportedParameter(f"structured_outputs.{name}", reason)
    given = {name: value[name] for name in _FORM_FIELDS if value.get(name) is not None}
    known = (*_FORM_FIELDS, *_REFUSED, *_WITHOUT_EFFECT)
    unknown = [f"structured_outputs.{name}" for name in value if name not in known]
    return StructuredOutputs(**given), unknown
