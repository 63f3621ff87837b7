"""`response_format` and `structured_outputs` reach the backend, and its refusals the client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from headrace.core.errors import InvalidGrammar, RequestError
from headrace.core.request import GenerateRequest
from headrace.core.structured_outputs import StructuredOutputs

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PROMPTS = {CHAT: {"messages": [{"role": "user", "content": "hi"}]}, TEXT: {"prompt": "hi"}}
SCHEMA = {"type": "object", "properties": {"z": {}, "a": {}}}
AS_SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}

ASKED = [
    ({}, None),
    ({"response_format": None, "structured_outputs": None}, None),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, StructuredOutputs(json_object=True)),
    ({"response_format": AS_SCHEMA}, StructuredOutputs(json=SCHEMA)),
    ({"structured_outputs": {"json": SCHEMA}}, StructuredOutputs(json=SCHEMA)),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, StructuredOutputs(json=SCHEMA)),
    ({"structured_outputs": {"json_object": True}}, StructuredOutputs(json_object=True)),
    ({"structured_outputs": {"regex": "a+", "json": None}}, StructuredOutputs(regex="a+")),
    ({"structured_outputs": {"choice": ["a", "b"]}}, StructuredOutputs(choice=("a", "b"))),
    (
        {"response_format": {"type": "text"}, "structured_outputs": {"grammar": 'start: "a"'}},
        StructuredOutputs(grammar='start: "a"'),
    ),
    (
        {"structured_outputs": {"json_object": True, "disable_any_whitespace": True}},
        StructuredOutputs(json_object=True, disable_any_whitespace=True),
    ),
]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(("fields", "form"), ASKED)
def test_a_form_reaches_the_backend(
    server: RunningServer, path: str, fields: dict[str, Any], form: StructuredOutputs | None
) -> None:
    with server.client() as client:
        reply = client.post(path, json={"model": "tiny", **PROMPTS[path], **fields})
    assert reply.status_code == 200, reply.text
    assert "x-headrace-warnings" not in reply.headers
    assert server.backend.requests[-1].sampling.structured_outputs == form


@pytest.mark.parametrize(("path", "prompt"), [*PROMPTS.items(), ("/v1/responses", {"input": "hi"})])
def test_a_misspelt_form_is_named(server: RunningServer, path: str, prompt: dict[str, Any]) -> None:
    with server.client() as client:
        form = {"jsonschema": SCHEMA, "disable_fallback": True}
        reply = client.post(path, json={"model": "tiny", **prompt, "structured_outputs": form})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, "structured_outputs.jsonschema")
    assert "'jsonschema'" in error["message"] and "json, json_object, regex" in error["message"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_unknown_keys_are_named(server: RunningServer, path: str) -> None:
    inner = {"name": "n", "schema": {}, "more": 1}
    bodies = [
        {"response_format": {"type": "json_schema", "json_schema": inner, "other": 1}},
        {"structured_outputs": {"regex": "a", "odd": 1, "disable_fallback": True}},
    ]
    with server.client() as client:
        warnings = [
            client.post(path, json={"model": "tiny", **PROMPTS[path], **body}).headers[
                "x-headrace-warnings"
            ]
            for body in bodies
        ]
    assert "response_format.other" in warnings[0]
    assert "response_format.json_schema.more" in warnings[0]
    assert "structured_outputs.odd" in warnings[1]
    assert "disable_fallback" not in warnings[1]


async def refuse(request: GenerateRequest) -> None:
    form = request.sampling.structured_outputs
    assert form is not None
    raise InvalidGrammar(form.param, "it is too hard.")


async def contradict(request: GenerateRequest) -> None:
    form = request.sampling.structured_outputs
    assert form is not None
    raise RequestError(f"allowed_token_ids and the form ({form.param}) ban all.", form.param)


def test_a_contradiction_names_the_callers_field() -> None:
    json_object = {"type": "json_object"}
    bodies = [
        (CHAT, PROMPTS[CHAT] | {"response_format": json_object}, "response_format"),
        ("/v1/responses", {"input": "hi", "text": {"format": json_object}}, "text.format"),
        (TEXT, {"prompt": "hi", "structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
    ]
    with run_server(FakeBackend(admission=contradict)) as server, server.client() as client:
        for path, body, param in bodies:
            error = client.post(path, json={"model": "tiny", **body}).json()["error"]
            message = f"allowed_token_ids and the form ({param}) ban all."
            assert (error["message"], error["param"]) == (message, param)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": AS_SCHEMA}, "response_format.json_schema.schema"),
        ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
    ],
)
def test_a_form_that_cannot_be_held_to_is_a_400_that_names_the_field(
    path: str, fields: dict[str, Any], param: str, stream: bool
) -> None:
    with run_server(FakeBackend(admission=refuse)) as server, server.client() as client:
        body = {"model": "tiny", "stream": stream, **PROMPTS[path], **fields}
        reply = client.post(path, json=body)
    assert reply.status_code == 400
    assert reply.json()["error"] == {
        "message": f"{param} cannot be enforced: it is too hard.",
        "type": "invalid_request_error",
        "param": param,
        "code": "invalid_grammar",
    }


def test_the_client_raises_when_the_length_limit_cuts_a_form(server: RunningServer) -> None:
    with server.openai() as client, pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model="tiny",
            messages=PROMPTS[CHAT]["messages"],  # type: ignore[arg-type]
            response_format=AS_SCHEMA,  # type: ignore[arg-type,type-var]
            max_completion_tokens=2,
        )


def test_a_schema_has_a_size_limit(server: RunningServer) -> None:
    schema = {"name": "n", "schema": {"const": "x" * 140_000}}
    asked = {"response_format": {"type": "json_schema", "json_schema": schema}}
    with server.client() as client:
        reply = client.post(CHAT, json={"model": "tiny", **PROMPTS[CHAT], **asked})
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == (
        "response_format.json_schema.schema cannot be enforced: it has 140013 bytes; allowed: at "
        "most 131072."
    )
