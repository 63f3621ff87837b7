"""Which JSON schemas answers can be held to, found out before anything is compiled.

In: a schema's text. Out: the schema, or an error with the place and the keyword at fault. A keyword
that would be ignored is refused by name: an answer that breaks the schema would look right.
Source: JSON Schema draft 2020-12; what llguidance enforces, its `docs/json_schema.md`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeGuard

from headrace.core.errors import InvalidGrammar

MAX_DEPTH = 48
"""Of schemas inside schemas. The compiler reads JSON to a depth of 128, two levels to a schema."""
MAX_OPTIONAL_PROPERTIES = 400
"""Of one object. Each is four items of the parser's 2,000, and compiling takes them squared."""

# Some spaces, or a line break and an indent. Left free, small models write space until the limit.
SOME_WHITESPACE = r" {1,4}|\r?\n( {0,48}|\t{0,16})"

_ENFORCED = frozenset(
    {
        *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions"),
        *("properties", "required", "additionalProperties", "patternProperties"),
        *("minProperties", "maxProperties", "items", "prefixItems", "minItems", "maxItems"),
        *("minLength", "maxLength", "pattern", "format", "multipleOf"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    }
)
# They say something about a schema and ask nothing of an answer.
_NOTES = frozenset(
    {
        *("title", "description", "default", "example", "examples", "deprecated", "readOnly"),
        *("writeOnly", "$schema", "$id", "$anchor", "$comment", "discriminator"),
    }
)
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLES = ("additionalProperties", "items")

_OPEN_ENDS = (
    ("exclusiveMinimum", ("maximum", "exclusiveMaximum"), 1),
    ("exclusiveMaximum", ("minimum", "exclusiveMinimum"), -1),
)
_INSTEAD = {
    "nullable": 'Use "type": ["string", "null"] and its like.',
    "additionalItems": "Use prefixItems and items.",
    "x-guidance": "Use disable_any_whitespace.",
}


def read_schema(text: str, param: str) -> dict[str, Any]:
    """Decode a schema and look at every schema inside it.

    Raises: InvalidGrammar with the place and what is wrong there.
    """
    try:
        whole = json.loads(text)
    except RecursionError:
        raise InvalidGrammar(param, "it is nested too deeply.") from None
    except ValueError as error:
        raise InvalidGrammar(param, f"it is not JSON: {error}.") from None
    if not isinstance(whole, dict):
        raise InvalidGrammar(param, "a JSON schema is an object.")
    level = [("", whole)]
    for _ in range(MAX_DEPTH):
        for path, schema in level:
            _check_keywords(schema, path, param)
        level = [child for path, schema in level for child in _children(schema, path, param)]
        if not level:
            return whole
    raise InvalidGrammar(
        param, f"schemas are more than {MAX_DEPTH} deep inside each other, at {level[0][0]}."
    )


def _check_keywords(schema: dict[str, Any], path: str, param: str) -> None:
    for name in schema:
        is_note = name in _NOTES or (name.startswith("x-") and name != "x-guidance")
        if not is_note and name not in _ENFORCED:
            instead = _INSTEAD.get(name, "Leave it out.")
            raise InvalidGrammar(param, f"{_at(path)}the keyword {name!r}. {instead}")
    if isinstance(schema.get("items"), list):
        raise InvalidGrammar(param, f"{_at(path)}items is a list. Use prefixItems.")
    _check_range(schema, path, param)
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(properties, dict) and isinstance(required, list | None):
        named = {name for name in required or () if isinstance(name, str)}
        num_optional = len(properties.keys() - named)
        if num_optional > MAX_OPTIONAL_PROPERTIES:
            raise InvalidGrammar(
                param,
                f"{_at(path)}{num_optional} properties are not required; allowed: at most "
                f"{MAX_OPTIONAL_PROPERTIES} in an object.",
            )


def _check_range(schema: dict[str, Any], path: str, param: str) -> None:
    """Refuse an open end that llguidance 1.9 closes: above 1 and below 1.5 would allow 1."""
    for name, others, sign in _OPEN_ENDS:
        end = schema.get(name)
        for other in others:
            value = schema.get(other)
            if not _is_number(end) or not _is_number(value) or end != int(end):
                continue
            if 0 < sign * (value - end) < 1:
                raise InvalidGrammar(
                    param,
                    f"{_at(path)}{name} {end} with {other} {value}: an open end at a whole number "
                    "needs the other end at least 1 away.",
                )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _children(schema: dict[str, Any], path: str, param: str) -> Iterator[tuple[str, Any]]:
    """The schemas directly inside one; true and false need no look."""
    for name, value in schema.items():
        inner: list[tuple[str, Any]] = []
        if name in _MAPS and isinstance(value, dict):
            inner = [(f"{path}.{name}.{key}", child) for key, child in value.items()]
        elif name in _LISTS and isinstance(value, list):
            inner = [(f"{path}.{name}[{index}]", child) for index, child in enumerate(value)]
        elif name in _MAPS or name in _LISTS:
            wanted = "an object" if name in _MAPS else "a list"
            raise InvalidGrammar(param, f"{_at(path)}{name} is not {wanted} of schemas.")
        elif name in _SINGLES:
            inner = [(f"{path}.{name}", value)]
        for place, child in inner:
            if isinstance(child, dict):
                yield place, child
            elif not isinstance(child, bool):
                raise InvalidGrammar(param, f"{_at(place)}a schema is an object, true or false.")


def _at(path: str) -> str:
    return f"at {path.removeprefix('.')}: " if path else ""
