"""Tool calls that are a JSON object, in whatever order and with whatever else in it.

In: the whole text of an object. Out: the call's name, and its arguments as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Collection


def read_json_call(
    text: str, names: Collection[str], needs_arguments: bool
) -> tuple[str, str] | None:
    """Name and arguments of an object that is a call in whatever order; None when it is none."""
    try:
        value = json.loads(text, strict=False)
        if isinstance(value.get("function"), dict):
            value = value["function"]
        arguments = value.get("arguments", value.get("parameters"))
        if isinstance(arguments, str):  # JSON in a string, as on the wire
            arguments = json.loads(arguments, strict=False)
            if not isinstance(arguments, dict):
                return None
    except (ValueError, RecursionError):
        return None
    if arguments is None and not needs_arguments:
        arguments = {}
    name = value.get("name")
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)
