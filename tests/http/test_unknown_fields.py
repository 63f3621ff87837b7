"""What has no effect in a request is an error, on every API, where the server is told so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.served_app import RunningServer, run_server
from headrace.core.config import ServerConfig
from headrace.core.errors import ConfigError

MESSAGES = [{"role": "user", "content": "hi"}]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi", "store": False}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 2}),
    ("/v1/messages/count_tokens", {"messages": MESSAGES}),
    ("/invocations", {"prompt": "hi"}),
    ("/tokenize", {"prompt": "hi"}),
    ("/detokenize", {"tokens": [65]}),
]


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningServer]:
    with run_server(config=ServerConfig(port=0, unknown_fields="error")) as running:
        yield running


def post(server: RunningServer, path: str, body: dict[str, Any]) -> httpx.Response:
    with server.client() as client:
        return client.post(path, json={"model": "tiny"} | body)


@pytest.mark.parametrize(("path", "body"), CASES)
def test_a_misspelt_field_is_an_error(
    strict: RunningServer, path: str, body: dict[str, Any]
) -> None:
    assert post(strict, path, body).status_code == 200
    num_run = len(strict.backend.requests)
    for where, asked in ((path, body | {"temprature": 0}), (f"{path}?temprature=0", body)):
        answer = post(strict, where, asked)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["message"].startswith("temprature has no effect here; allowed: what is read")
        assert error.get("param", "temprature") == "temprature"
    assert len(strict.backend.requests) == num_run


@pytest.mark.parametrize(("path", "body"), CASES)
def test_by_default_it_is_named(server: RunningServer, path: str, body: dict[str, Any]) -> None:
    answer = post(server, path, body | {"temprature": 0})
    assert (answer.status_code, answer.headers["x-headrace-warnings"]) == (200, "temprature")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
        ({"messages": [{"role": "user", "content": "hi", "nmae": "x"}]}, "messages[0].nmae"),
        ({"service_tier": "flex"}, "service_tier"),
    ],
)
def test_so_is_whatever_a_warning_names(
    strict: RunningServer, fields: dict[str, Any], name: str
) -> None:
    answer = post(strict, "/v1/chat/completions", {"messages": MESSAGES} | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


def test_the_setting_has_two_values() -> None:
    with pytest.raises(ConfigError, match=r"unknown_fields.*warn.*error"):
        ServerConfig(unknown_fields="ignore")  # type: ignore[arg-type]
