"""What of a head or a conversation has no effect is named; a body that is no UTF-8 is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from headrace.core.config import ServerConfig

CHAT = "/v1/chat/completions"
ASK = {"role": "user", "content": "hi"}
BODY: dict[str, Any] = {"model": "tiny", "messages": [ASK]}
F = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLS = {"role": "assistant", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "42"}
FORM = {"type": "json_object"}


def post(
    server: RunningServer, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> httpx.Response:
    with server.client() as client:
        return client.post(path, json=body, headers=headers)


def names(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [name for name in answer.headers.get("x-headrace-warnings", "").split(",") if name]


@pytest.mark.parametrize(
    ("query", "found"), [("stream=true&foo=1", ["stream", "foo"]), ("", []), ("x", ["x"])]
)
def test_a_query_that_nobody_reads_is_named(
    server: RunningServer, query: str, found: list[str]
) -> None:
    assert names(post(server, f"{CHAT}?{query}", BODY)) == found


def test_it_is_named_beside_fields_in_streams_and_in_reports(server: RunningServer) -> None:
    body = BODY | {"temprature": 1, "stream": True}
    assert names(post(server, f"{CHAT}?api-version=1", body)) == ["temprature", "api-version"]
    with server.client() as client:
        assert names(client.get("/health?deep=1")) == ["deep"]


def test_what_anthropics_client_sends_is_known(server: RunningServer) -> None:
    body = BODY | {"max_tokens": 2}
    assert names(post(server, "/v1/messages?beta=true", body)) == []
    assert names(post(server, "/v1/messages?alpha=true", body)) == ["alpha"]


@pytest.mark.parametrize("given", ["a b", "x" * 500])
def test_an_id_that_cannot_be_echoed_is_named(server: RunningServer, given: str) -> None:
    answer = post(server, CHAT, BODY, {"x-request-id": given})
    assert names(answer) == ["x-request-id"]
    assert answer.headers["x-request-id"].startswith("req_")
    assert names(post(server, CHAT, BODY, {"x-request-id": "mine"})) == []


@pytest.mark.parametrize("charset", ["utf-16", '"ISO-8859-1"'])
def test_json_is_utf8(server: RunningServer, charset: str) -> None:
    content = {"content-type": f"application/json; charset={charset}"}
    answer = post(server, CHAT, BODY, content)
    assert answer.status_code == 415
    shown = charset.strip('"').lower()
    assert answer.json()["error"]["message"] == (
        f"The charset of Content-Type is {shown!r}; allowed: utf-8, as JSON has it."
    )
    for known in ("utf-8", "UTF-8", '"utf-8"'):
        content = {"content-type": f"application/json; charset={known}"}
        assert names(post(server, CHAT, BODY, content)) == []


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([ASK, CALLS, RESULT | {"tool_call_id": "c1"}], []),
        ([ASK, CALLS, RESULT], ["messages[2].tool_call_id"]),
        ([ASK, CALLS, RESULT | {"tool_call_id": "c2"}], ["messages[2].tool_call_id"]),
        ([ASK, RESULT | {"tool_call_id": "c1"}, CALLS], ["messages[1].tool_call_id"]),
    ],
)
def test_a_result_of_no_call_is_named(
    server: RunningServer, messages: list[dict[str, Any]], found: list[str]
) -> None:
    assert names(post(server, CHAT, BODY | {"messages": messages})) == found


@pytest.mark.parametrize(
    ("path", "fields", "found"),
    [
        (CHAT, {"response_format": FORM}, "response_format"),
        (CHAT, {"structured_outputs": {"json_object": True}}, "structured_outputs"),
        ("/v1/responses", {"text": {"format": FORM}}, "text.format"),
    ],
)
def test_a_form_beside_forced_calls_is_named(
    server: RunningServer, path: str, fields: dict[str, Any], found: str
) -> None:
    tools = [F] if path == CHAT else [{"type": "function", "name": "f"}]
    asked = BODY if path == CHAT else {"model": "tiny", "input": "hi", "store": False}
    body = {**asked, "tools": tools, **fields}
    assert names(post(server, path, body | {"tool_choice": "required"})) == [found]
    assert names(post(server, path, body | {"tool_choice": "auto"})) == []


NAMED = [{"role": "system", "content": "s", "name": "boss"}, ASK, ASK | {"name": "ann"}]


@pytest.mark.parametrize("is_read", [True, False])
@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_names_of_messages_that_the_template_does_not_read_are_named(
    path: str, is_read: bool
) -> None:
    backend = FakeBackend()
    backend.info = replace(backend.info, reads_message_names=is_read)
    with run_server(backend) as running:
        found = names(post(running, path, BODY | {"messages": NAMED}))
    assert found == ([] if is_read else ["messages[0].name", "messages[2].name"])


def test_a_name_that_is_not_read_is_refused_where_all_of_them_are() -> None:
    backend = FakeBackend()
    backend.info = replace(backend.info, reads_message_names=False)
    with run_server(backend, ServerConfig(port=0, unknown_fields="error")) as running:
        answer = post(running, CHAT, BODY | {"messages": NAMED})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[0].name")
    assert not backend.requests
