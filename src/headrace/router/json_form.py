"""Whether a JSON value is as a schema says, for the keywords that schemas of answers use.

In: a decoded value and a schema. Out: the first violation, or None. Keywords it does not know hold
for it, and so does what is left of a schema after MAX_STEPS: it finds broken answers, it proves
none. Patterns are not looked at: a caller writes them, and some take for ever.
Source: JSON Schema 2020-12, Validation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

from headrace.core.frozen import frozen

MAX_DEPTH = 64
MAX_STEPS = 10_000
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "null": (type(None),),
    "number": (int, float),
    "integer": (int,),
}


@frozen
class _Root:
    """The whole schema, and the steps that may still be made."""

    schema: Any
    steps: Iterator[int] = field(default_factory=lambda: iter(range(MAX_STEPS)))


def violation(value: Any, schema: Any) -> str | None:
    """Where and how a value breaks a schema; None where nothing is found, or the schema is none."""
    try:
        return next(_violations(value, schema, _Root(schema), "answer", 0), None)
    except (TypeError, ValueError, AttributeError):
        return None


def _violations(value: Any, schema: Any, root: _Root, path: str, depth: int) -> Iterator[str]:
    if next(root.steps, None) is None:
        return
    if schema is False:
        yield f"{path} may not be there"
    if not isinstance(schema, Mapping) or depth > MAX_DEPTH:
        return
    if isinstance(schema.get("$ref"), str):
        target = _resolve(schema["$ref"], root.schema)
        yield from _violations(value, target, root, path, depth + 1)
    types = schema.get("type")
    if types is not None:
        names = types if isinstance(types, list) else [types]
        if not any(_is_type(value, name) for name in names):
            yield f"{path} is not {' or '.join(map(str, names))}"
            return
    if "enum" in schema and not any(_same(value, other) for other in schema["enum"]):
        yield f"{path} is none of its values"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{path} is not its value"
    yield from _combined(value, schema, root, path, depth)
    yield from _bounds(value, schema, path)
    if isinstance(value, dict):
        yield from _object(value, schema, root, path, depth)
    elif isinstance(value, list):
        items = schema.get("items")
        for index, item in enumerate(value):
            yield from _violations(item, items, root, f"{path}[{index}]", depth + 1)


def _combined(
    value: Any, schema: Mapping[str, Any], root: _Root, path: str, depth: int
) -> Iterator[str]:
    for part in schema.get("allOf") or ():
        yield from _violations(value, part, root, path, depth + 1)
    for name in ("anyOf", "oneOf"):
        parts = schema.get(name)
        if parts and all(
            next(_violations(value, part, root, path, depth + 1), None) for part in parts
        ):
            yield f"{path} is none of its forms"


def _object(
    value: dict[str, Any], schema: Mapping[str, Any], root: _Root, path: str, depth: int
) -> Iterator[str]:
    for name in schema.get("required") or ():
        if name not in value:
            yield f"{path}.{name} is missing"
    properties = schema.get("properties") or {}
    for name, item in value.items():
        if name in properties:
            yield from _violations(item, properties[name], root, f"{path}.{name}", depth + 1)
        elif "patternProperties" not in schema and "additionalProperties" in schema:
            more = schema["additionalProperties"]
            yield from _violations(item, more, root, f"{path}.{name}", depth + 1)


def _bounds(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        sizes, low, high = value, "minimum", "maximum"
    elif isinstance(value, str):
        sizes, low, high = len(value), "minLength", "maxLength"
    elif isinstance(value, list):
        sizes, low, high = len(value), "minItems", "maxItems"
    else:
        return
    if low in schema and sizes < schema[low]:
        yield f"{path} is below its {low}"
    if high in schema and sizes > schema[high]:
        yield f"{path} is above its {high}"


def _is_type(value: Any, name: object) -> bool:
    kinds = _TYPES.get(str(name))
    if kinds is None:
        return True
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, kinds)


def _same(value: Any, other: Any) -> bool:
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _resolve(reference: str, root: Any) -> Any:
    """What a reference inside the schema names; anything where it names nothing."""
    if not reference.startswith("#"):
        return True
    found = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            return True
        found = found[name]
    return found
