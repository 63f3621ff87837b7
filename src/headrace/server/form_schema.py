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
_TEXT_FORMAT = "text.format"
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
    kind = _read_kind(asked, "response_format", "json_schema.schema")
    if fields.structured_outputs is not None and kind != "text":
        raise InvalidParameter(
            "structured_outputs", fields.structured_outputs, f"nothing beside the {kind} asked for"
        )
    unknown = [f"response_format.{name}" for name in asked if name not in ("type", "json_schema")]
    if kind == "json_object":
        return StructuredOutputs(json_object=True), unknown
    if kind == "json_schema":
        value = asked.get("json_schema")
        if not isinstance(value, dict):
            raise InvalidParameter(
                "response_format.json_schema", value, "an object with name and schema"
            )
        form, more = _read_json_schema(value, "response_format.json_schema.")
        return form, unknown + more
    if fields.structured_outputs is None:
        return None, unknown
    form, more = _read_extra(fields.structured_outputs)
    return form, unknown + more


def read_text_format(
    asked: Mapping[str, Any] | None, structured_outputs: Mapping[str, Any] | None
) -> tuple[StructuredOutputs | None, Mapping[str, str], list[str]]:
    """`text.format` of a response, where the schema is not nested: as `read_form`, with the names
    of its parts.

    Raises: RequestError.
    """
    asked = {"type": "text"} if asked is None else asked
    kind = _read_kind(asked, _TEXT_FORMAT, "schema")
    if structured_outputs is not None:
        if kind != "text":
            raise InvalidParameter(
                "structured_outputs", structured_outputs, f"nothing beside the {kind} asked for"
            )
        form, unknown = _read_extra(structured_outputs)
        return form, {}, unknown
    names = {
        "structured_outputs.json": f"{_TEXT_FORMAT}.schema",
        "structured_outputs.json_object": _TEXT_FORMAT,
        "structured_outputs": _TEXT_FORMAT,
    }
    if kind == "json_schema":
        form, unknown = _read_json_schema(asked, f"{_TEXT_FORMAT}.")
        return form, names, [name for name in unknown if name != f"{_TEXT_FORMAT}.type"]
    unknown = [f"{_TEXT_FORMAT}.{name}" for name in asked if name != "type"]
    return (StructuredOutputs(json_object=True) if kind == "json_object" else None), names, unknown


def form_wire_names(fields: GenerationFields) -> dict[str, str]:
    """What the backend's words for a form are in the words of this body."""
    if fields.structured_outputs is not None:
        return {}
    return {
        "structured_outputs.json": _SCHEMA,
        "structured_outputs.json_object": "response_format",
        "structured_outputs": "response_format",
    }


def _read_kind(asked: Mapping[str, Any], path: str, schema_at: str) -> str:
    """The kind of form. Raises: RequestError, also for a schema where nothing would read it."""
    kind = asked.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise InvalidParameter(f"{path}.type", kind, "text, json_object or json_schema")
    for name in ("json_schema", "schema"):
        is_read = kind == "json_schema" and schema_at.startswith(name)
        if asked.get(name) is not None and not is_read:
            raise UnsupportedParameter(
                f"{path}.{name}",
                "answers would not be held to it. Give the schema as "
                f'{path}.{schema_at} and set {path}.type to "json_schema".',
            )
    return str(kind)


def _read_json_schema(value: Mapping[str, Any], prefix: str) -> tuple[StructuredOutputs, list[str]]:
    fields = validate(JsonSchemaFields, value, prefix)
    schema, path = value.get("schema"), f"{prefix}schema"
    if schema is None:
        raise RequestError(
            f"{path} is missing; give a JSON schema.", path, "missing_required_parameter"
        )
    if not isinstance(schema, dict):
        raise InvalidParameter(path, schema, "a JSON schema: an object")
    with worded({"structured_outputs.json": path}):
        form = StructuredOutputs(json=schema)
    return form, unknown_names(fields, ("schema",), prefix)


def _read_extra(value: Mapping[str, Any]) -> tuple[StructuredOutputs, list[str]]:
    for name, reason in _REFUSED.items():
        if value.get(name) not in (None, False):
            raise UnsupportedParameter(f"structured_outputs.{name}", reason)
    given = {name: value[name] for name in _FORM_FIELDS if value.get(name) is not None}
    known = (*_FORM_FIELDS, *_REFUSED, *_WITHOUT_EFFECT)
    unknown = [name for name in value if name not in known]
    if unknown and not any(name in given for name in FORMS):
        # Most likely a form whose name is misspelt.
        shown = ", ".join(repr(name[:40]) for name in unknown[:5])
        raise RequestError(
            f"structured_outputs has {shown}, which nobody defines, and no form; allowed: "
            f"exactly one of {', '.join(FORMS)}.",
            f"structured_outputs.{unknown[0][:40]}",
            "invalid_value",
        )
    return StructuredOutputs(**given), [f"structured_outputs.{name}" for name in unknown]
