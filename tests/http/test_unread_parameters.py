"""Parameters that the model's chat template does not read: refused, or named and left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from headrace.core.config import ServerConfig
from headrace.core.errors import ConfigError

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"messages": MESSAGES, "reasoning_effort": "high", "verbosity": "low"}
RESPONSE = {
    "input": "hi",
    "store": False,
    "reasoning": {"effort": "high"},
    "text": {"verbosity": "low"},
}
THINKING = {"type": "enabled", "budget_tokens": 1024}
ANTHROPIC = {
    "messages": MESSAGES,
    "max_tokens": 2000,
    "thinking": THINKING,
    "output_config": {"effort": "low"},
}
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("/v1/chat/completions", CHAT, "reasoning_effort", "reasoning_effort,verbosity"),
    ("/v1/responses", RESPONSE, "text.verbosity", "text.verbosity,reasoning.effort"),
    ("/v1/messages", ANTHROPIC, "thinking", "thinking,output_config.effort"),
    (
        "/v1/messages/count_tokens",
        {name: value for name, value in ANTHROPIC.items() if name != "max_tokens"},
        "thinking",
        "thinking,output_config.effort",
    ),
]


@pytest.fixture(scope="module")
def lenient() -> Iterator[RunningServer]:
    with run_server(config=ServerConfig(port=0, unread_parameters="warn")) as running:
        yield running


def post(server: RunningServer, path: str, body: dict[str, Any]) -> httpx.Response:
    with server.client() as client:
        return client.post(path, json={"model": "tiny"} | body)


@pytest.mark.parametrize(("path", "body", "first", "names"), CASES)
def test_they_are_an_error_unless_the_server_says_otherwise(
    server: RunningServer, path: str, body: dict[str, Any], first: str, names: str
) -> None:
    answer = post(server, path, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"{first} is not supported: this model")


@pytest.mark.parametrize(("path", "body", "first", "names"), CASES)
def test_with_a_warning_they_are_named_and_left_out(
    lenient: RunningServer, path: str, body: dict[str, Any], first: str, names: str
) -> None:
    answer = post(lenient, path, body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-headrace-warnings"] == names
    if "count" not in path:
        assert lenient.backend.requests[-1].chat_template_kwargs == {}


def test_a_response_shows_what_holds(lenient: RunningServer) -> None:
    shown = post(lenient, "/v1/responses", RESPONSE).json()
    assert (shown["text"]["verbosity"], shown["reasoning"]["effort"]) == ("medium", None)


@pytest.mark.parametrize("what", [{"reasoning_effort": 5}, {"verbosity": ["low"]}])
def test_what_is_no_effort_is_still_an_error(lenient: RunningServer, what: Any) -> None:
    assert post(lenient, "/v1/chat/completions", CHAT | what).status_code == 400


def test_a_template_that_reads_them_gets_them() -> None:
    backend = FakeBackend()
    reads = frozenset({"reasoning_effort", "verbosity"})
    backend.info = replace(backend.info, template_variables=reads)
    config = ServerConfig(port=0, unread_parameters="warn")
    with run_server(backend, config) as running:
        answers = [post(running, path, body) for path, body, *_ in CASES[:2]]
    assert [answer.headers.get("x-headrace-warnings") for answer in answers] == [None, None]
    given = [request.chat_template_kwargs for request in running.backend.requests]
    assert given == [{"reasoning_effort": "high", "verbosity": "low"}] * 2


def test_the_setting_has_two_values() -> None:
    with pytest.raises(ConfigError, match=r"unread_parameters.*error.*warn"):
        ServerConfig(unread_parameters="ignore")  # type: ignore[arg-type]
