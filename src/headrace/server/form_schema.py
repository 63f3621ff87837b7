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
from headrace.server.error_responses import worded, wrong_member
from headrace.server.generation_schema import (
    GenerationFields,
    Strict,
    allowed,
    unknown_names,
    validate,
)

_SCHEMA = "response_format.json_schema.schema"
_TEXT_FORMAT = "text.format"
_PARTS = (
    "A form holds the whole answer, not parts of it between marks: write marks and text into "
    "structured_outputs.grammar, or use tools for calls."
)
_REFUSED = {
    "structural_tag": _PARTS,
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
    return _read(
        fields.response_format, fields.structured_outputs, "response_format", "json_schema"
    )


def read_text_format(
    asked: Mapping[str, Any] | None, structured_outputs: Mapping[str, Any] | None
) -> tuple[StructuredOutputs | None, Mapping[str, str], list[str]]:
    """`text.format` of a response, where the schema is not nested: as `read_form`, with the names
    of its parts.

    Raises: RequestError.
    """
    form, unknown = _read(asked, structured_outputs, _TEXT_FORMAT, None)
    names = _wire_names(_TEXT_FORMAT, f"{_TEXT_FORMAT}.schema")
    return form, {} if structured_outputs is not None else names, unknown


def form_wire_names(fields: GenerationFields) -> dict[str, str]:
    """What the backend's words for a form are in the words of this body."""
    is_extra = fields.structured_outputs is not None
    return {} if is_extra else _wire_names("response_format", _SCHEMA)


def _wire_names(path: str, schema_at: str) -> dict[str, str]:
    return {
        "structured_outputs.json": schema_at,
        "structured_outputs.json_object": path,
        "structured_outputs": path,
    }


def _read(
    given: Mapping[str, Any] | None, extra: Mapping[str, Any] | None, path: str, nest: str | None
) -> tuple[StructuredOutputs | None, list[str]]:
    """The form at `path`, whose schema stands in its member `nest` or beside its type; or `extra`.

    Raises: RequestError.
    """
    asked = {"type": "text"} if given is None else given
    kind = _read_kind(asked, path, "schema" if nest is None else f"{nest}.schema")
    if extra is not None and kind != "text":
        raise InvalidParameter("structured_outputs", extra, f"nothing beside the {kind} asked for")
    unknown = [f"{path}.{name}" for name in asked if name not in ("type", nest)]
    if kind == "json_object":
        return StructuredOutputs(json_object=True), unknown
    if kind == "text":
        form, more = (None, []) if extra is None else _read_extra(extra)
        return form, unknown + more
    if nest is None:
        form, more = _read_json_schema(asked, f"{path}.")
        return form, [name for name in more if name != f"{path}.type"]
    value = asked.get(nest)
    if not isinstance(value, dict):
        raise wrong_member(asked, nest, f"{path}.{nest}", "an object with name and schema")
    form, more = _read_json_schema(value, f"{path}.{nest}.")
    return form, unknown + more


def _read_kind(asked: Mapping[str, Any], path: str, schema_at: str) -> str:
    """The kind of form. Raises: RequestError, also for a schema where nothing would read it."""
    kind = asked.get("type")
    if kind not in ("text", "json_object", "json_schema"):
        hint = _PARTS if kind == "structural_tag" else ""
        kinds = "text, json_object or json_schema"
        raise wrong_member(asked, "type", f"{path}.type", kinds, hint)
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
