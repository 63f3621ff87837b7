"""Exceptions of core as HTTP: statuses, bodies, headers."""

from __future__ import annotations

import json

import pytest

from headrace.core.errors import (
    BackendError,
    CapacityError,
    ConfigError,
    ContextTooLong,
    EngineDied,
    EngineStalled,
    InvalidParameter,
    ModelNotFound,
    NotAuthenticated,
    NotPermitted,
    RateLimited,
    RequestError,
    UnsupportedParameter,
)
from headrace.server.error_responses import HttpRefusal, describe_error, is_our_fault, worded

CASES: list[tuple[Exception, int, str, str | None, str | None]] = [
    (RequestError("m", "p", "c"), 400, "invalid_request_error", "p", "c"),
    (InvalidParameter("p", 1, "2"), 400, "invalid_request_error", "p", "invalid_value"),
    (UnsupportedParameter("p", "r"), 400, "invalid_request_error", "p", "unsupported_parameter"),
    (ContextTooLong(5, 4), 400, "invalid_request_error", "messages", "context_length_exceeded"),
    (ModelNotFound("x"), 404, "invalid_request_error", "model", "model_not_found"),
    (
        NotAuthenticated("m", None, "invalid_api_key"),
        401,
        "invalid_request_error",
        None,
        "invalid_api_key",
    ),
    (
        NotPermitted("m", None, "insufficient_scope"),
        403,
        "invalid_request_error",
        None,
        "insufficient_scope",
    ),
    (RateLimited("m", 3.0), 429, "rate_limit_error", None, "rate_limit_exceeded"),
    (CapacityError("m", 0.2), 429, "rate_limit_error", None, "slow_down"),
    (CapacityError("m", 0.2, is_full=False), 503, "server_error", None, None),
    (EngineDied("m"), 503, "server_error", None, None),
    (EngineStalled("m"), 503, "server_error", None, None),
    (BackendError("m"), 500, "server_error", None, None),
    (ConfigError("f", 1, "2"), 500, "server_error", None, None),
    (ValueError("secret"), 500, "server_error", None, None),
    (HttpRefusal(415, "m"), 415, "invalid_request_error", None, None),
]


@pytest.mark.parametrize(
    ("error", "status", "kind", "param", "code"), CASES, ids=lambda value: type(value).__name__
)
def test_statuses_and_bodies(
    error: Exception, status: int, kind: str, param: str | None, code: str | None
) -> None:
    reply = describe_error(error, "req_1")
    assert reply.status == status
    body = json.loads(reply.body())["error"]
    assert list(body) == ["message", "type", "param", "code"]
    assert (body["type"], body["param"], body["code"]) == (kind, param, code)
    assert "secret" not in body["message"]
    assert ("req_1" in body["message"]) is (status == 500)
    assert ("Retry-After" in reply.headers) is (status in (429, 503))
    assert is_our_fault(error) is (status == 500)


@pytest.mark.parametrize(
    ("wait_s", "seconds", "milliseconds"),
    [
        (0.0, "1", "1"),
        (0.2, "1", "200"),
        (1.0, "1", "1000"),
        (2.001, "3", "2001"),
        (1e9, "120", "120000"),
    ],
)
def test_waits_are_whole_seconds_and_bounded(
    wait_s: float, seconds: str, milliseconds: str
) -> None:
    headers = describe_error(CapacityError("m", wait_s), "r").headers
    assert (headers["Retry-After"], headers["retry-after-ms"]) == (seconds, milliseconds)


def test_long_values_are_shortened() -> None:
    for value in ("x" * 10_000_000, ["y"] * 1_000_000, {"k": "z" * 100_000}):
        message = describe_error(InvalidParameter("stop", value, "less"), "r").message
        assert len(message) < 200
        assert message.endswith("...; allowed: less.")


def test_errors_are_said_in_the_names_of_a_dialect() -> None:
    names = {"max_tokens": "max_completion_tokens"}
    with pytest.raises(InvalidParameter) as renamed, worded(names):
        raise InvalidParameter("max_tokens", 0, "1 or more", "Raise max_tokens.")
    assert renamed.value.param == "max_completion_tokens"
    assert renamed.value.message == (
        "max_completion_tokens is 0; allowed: 1 or more. Raise max_completion_tokens."
    )
    with pytest.raises(RequestError) as long, worded(names):
        raise ContextTooLong(9, 8, 3, "max_tokens")
    assert long.value.param == "max_completion_tokens"
    assert long.value.code == "context_length_exceeded"
    assert long.value.message.endswith("or lower max_completion_tokens.")
    with pytest.raises(ModelNotFound), worded(names):
        raise ModelNotFound("x")
