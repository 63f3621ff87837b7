"""GET /openapi.json against the server that sends it: its routes, its bodies, its gate."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from fakes.served_app import run_server
from headrace.core.config import ServerConfig
from headrace.server.auth import needed_scope
from headrace.server.body_schemas import BODIES


@pytest.fixture(scope="module")
def sent() -> tuple[dict[str, Any], list[Route]]:
    with run_server() as server, server.client() as client:
        answer = client.get("/openapi.json")
        assert answer.headers["content-type"] == "application/json"
        routes = [route for route in server.app._router.routes if isinstance(route, Route)]
        return answer.json(), routes


def test_every_route_of_callers_is_there(sent: tuple[dict[str, Any], list[Route]]) -> None:
    document, routes = sent
    config = ServerConfig(port=0)
    wanted = {
        (method.lower(), route.path.replace(":path}", "}"))
        for route in routes
        for method in (route.methods or set()) - {"HEAD"}
        if needed_scope(route.path, config) != "admin"
    }
    found = {(method, path) for path, by in document["paths"].items() for method in by}
    assert found == wanted
    assert document["openapi"] == "3.1.0" and document["paths"]["/health"]["get"]["summary"]
    (model,) = document["paths"]["/health"]["get"]["parameters"]
    assert (model["name"], model["in"], model["required"]) == ("model", "query", False)
    for path, by in document["paths"].items():
        for operation in by.values():
            names = [p["name"] for p in operation["parameters"] if p["in"] == "path"]
            assert names == re.findall(r"{(\w+)}", path)


def test_bodies_are_what_handlers_check(sent: tuple[dict[str, Any], list[Route]]) -> None:
    document, _ = sent
    schemas = document["components"]["schemas"]
    for path, (model, refused) in BODIES.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert content["application/json"]["schema"]["$ref"].endswith(f"/{model.__name__}")
        schema = schemas[model.__name__]
        assert "$defs" not in schema and "$ref" not in str(schema)
        # Fields that nobody defines are taken and ignored.
        assert (schema["type"], schema["additionalProperties"]) == ("object", True)
        assert set(schema["properties"]) == set(model.model_fields) - set(refused)
        assert all(field["description"] for field in schema["properties"].values())
    chat = schemas["ChatCompletionFields"]
    assert chat["required"] == ["model", "messages"]
    length = chat["properties"]["max_tokens"]
    assert length["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert "guided_json" in chat["description"]


@pytest.mark.parametrize("path", sorted(BODIES))
def test_a_body_without_its_required_fields_is_refused(
    sent: tuple[dict[str, Any], list[Route]], path: str
) -> None:
    """Each of them by its name, by the route that is said to need it."""
    required = sent[0]["components"]["schemas"][BODIES[path][0].__name__].get("required", [])
    with run_server() as server:
        reply = httpx.post(f"{server.address}{path}", json={})
    assert reply.status_code == 400
    if required:
        assert re.match(rf"{required[0]} is missing", reply.json()["error"]["message"])
