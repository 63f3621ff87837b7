"""GET /openapi.json: routes and bodies in the form of OpenAPI, made of what answers them.

In: the route table, the models that bodies are checked with. Out: a document of OpenAPI 3.1. It
says nothing that the code does not know: answers and uploads have no schema in it, and the orders
of operators, whose queries their handlers read, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from starlette.routing import Route

from headrace.server.auth import needed_scope
from headrace.server.body_schemas import BODIES
from headrace.server.endpoints import Described
from headrace.server.services import Services

_ABOUT = (
    "Made of the server's routes and of the models that check bodies. What a field may hold is its "
    "description; fields that nobody defines are ignored and named in x-headrace-warnings. Orders "
    "of operators are not here."
)
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def describe_routes(services: Services, routes: Sequence[Route]) -> dict[str, Any]:
    """The document."""
    config = services.config
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        scope = needed_scope(route.path, config)
        if scope == "admin" or not isinstance(route.endpoint, Described):
            continue
        # Starlette marks parameters that may hold a slash.
        path = route.path.replace(":path}", "}")
        is_open = scope is None or (services.accounts.keys.is_open and not config.require_key)
        for method, (text, names) in route.endpoint.describe().items():
            operation = _operation(path, method, text, names)
            operation["security"] = [] if is_open else [{name: []} for name in _KEYS]
            paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "headrace", "version": services.version, "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": _KEYS},
    }


def _operation(path: str, method: str, text: str, names: Sequence[str]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": text.strip().split("\n")[0].split(" Raises: ")[0] or path,
        "parameters": [
            *(_parameter(name, "path") for name in re.findall(r"{(\w+)}", path)),
            *(_parameter(name, "query") for name in names),
        ],
        "responses": {
            "200": {"description": "The answer."},
            "default": {"description": "Why not."},
        },
    }
    if path in BODIES:
        schema = {"$ref": f"#/components/schemas/{BODIES[path][0].__name__}"}
        content = {"application/json": {"schema": schema}}
        operation["requestBody"] = {"required": True, "content": content}
    elif method == "POST":
        operation["requestBody"] = {"content": {"*/*": {}}}
    return operation


def _parameter(name: str, place: str) -> dict[str, Any]:
    is_in_path = place == "path"
    return {"name": name, "in": place, "required": is_in_path, "schema": {"type": "string"}}


@cache
def _schemas() -> dict[str, Any]:
    """What bodies may hold, by the name of the model."""
    found = {}
    for model, refused in BODIES.values():
        schema = model.model_json_schema()
        schema["properties"] = {
            name: field for name, field in schema["properties"].items() if name not in refused
        }
        if refused:
            schema["description"] = f"Refused: {', '.join(refused)}."
        found[model.__name__] = schema
    return found
