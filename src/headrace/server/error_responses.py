"""Errors as HTTP: the only place where statuses, error bodies and their headers are made.

In: whatever a route raised. Out: status, body and headers of section 2.3 of the HTTP reference.
Pydantic's errors become `RequestError`s here too, in the words of the rest of headrace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from headrace.core.errors import (
    BackendError,
    BudgetExceeded,
    CapacityError,
    ContextTooLong,
    EngineDied,
    EngineStalled,
    HeadraceError,
    InvalidGrammar,
    InvalidParameter,
    ModelNotFound,
    NotAuthenticated,
    NotPermitted,
    RateLimited,
    RequestError,
    StoreError,
    UpstreamError,
    UpstreamTimeout,
)
from headrace.core.frozen import frozen

ErrorType = Literal[
    "invalid_request_error", "rate_limit_error", "insufficient_quota", "server_error"
]

# Clients stop retrying when they are told to wait longer than this.
MAX_RETRY_AFTER_S = 120.0
DEAD_RETRY_AFTER_S = 10.0
STORE_RETRY_AFTER_S = 5.0

_STATUS_OF: tuple[tuple[type[RequestError], int], ...] = (
    (ModelNotFound, 404),
    (NotAuthenticated, 401),
    (NotPermitted, 403),
    (RateLimited, 429),
    (BudgetExceeded, 429),
)


class HttpRefusal(RequestError):
    """A request that is refused for its HTTP side: route, method, size, content type."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.headers = status, dict(headers or {})
        super().__init__(message)


@frozen
class ErrorReply:
    """An error as a client sees it."""

    status: int
    type: ErrorType
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """Encode the error object; all four keys are always there."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return msgspec.json.encode({"error": error})


def describe_error(error: Exception, request_id: str) -> ErrorReply:
    """Say what an exception is in HTTP. Anything unknown is a fault of ours: 500 and no detail."""
    if isinstance(error, HttpRefusal):
        return ErrorReply(
            error.status, "invalid_request_error", error.message, headers=error.headers
        )
    if isinstance(error, InvalidParameter):
        return ErrorReply(
            400, "invalid_request_error", error.message_in_json, error.param, error.code
        )
    if isinstance(error, RequestError):
        return _describe_request_error(error)
    if isinstance(error, HTTPException):
        return _describe_routing(error)
    if isinstance(error, CapacityError):
        headers = _retry_headers(error.retry_after_s)
        if error.is_full:
            return ErrorReply(429, "rate_limit_error", error.message, None, "slow_down", headers)
        return ErrorReply(503, "server_error", error.message, headers=headers)
    if isinstance(error, EngineDied | EngineStalled):
        headers = _retry_headers(DEAD_RETRY_AFTER_S)
        return ErrorReply(503, "server_error", error.message, headers=headers)
    if isinstance(error, UpstreamError):
        return _describe_upstream(error)
    if isinstance(error, StoreError):
        text = f"What is stored cannot be reached now; the log has more under {request_id}."
        return ErrorReply(503, "server_error", text, headers=_retry_headers(STORE_RETRY_AFTER_S))
    reason = error.message if isinstance(error, BackendError) else "The server failed to answer."
    text = f"{reason} The log has more under request id {request_id}."
    return ErrorReply(500, "server_error", text)


def is_our_fault(error: Exception) -> bool:
    """Whether the log should have the traceback."""
    return not isinstance(error, RequestError | CapacityError | HTTPException) and not (
        isinstance(error, HeadraceError)
        and isinstance(error, EngineDied | EngineStalled | UpstreamError)
    )


def _describe_upstream(error: UpstreamError) -> ErrorReply:
    """A gateway's statuses; one that is busy, or left alone for a while, says when to come back."""
    headers = {} if error.retry_after_s is None else _retry_headers(error.retry_after_s)
    if error.status == 429:
        return ErrorReply(429, "rate_limit_error", error.message, None, "slow_down", headers)
    status = 504 if isinstance(error, UpstreamTimeout) else 502
    if headers and error.status is None:
        status = 503
    return ErrorReply(status, "server_error", error.message, headers=headers)


def _describe_request_error(error: RequestError) -> ErrorReply:
    status = next((status for kind, status in _STATUS_OF if isinstance(error, kind)), 400)
    if isinstance(error, RateLimited):
        headers = _retry_headers(error.retry_after_s)
        return ErrorReply(
            status, "rate_limit_error", error.message, error.param, error.code, headers
        )
    if isinstance(error, BudgetExceeded):
        # OpenAI's clients know it by this type; trying again would not help.
        headers = {"x-should-retry": "false"}
        return ErrorReply(status, "insufficient_quota", error.message, None, error.code, headers)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return ErrorReply(
        status, "invalid_request_error", error.message, error.param, error.code, headers
    )


def _describe_routing(error: HTTPException) -> ErrorReply:
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = headers.get("Allow", "")
        headers["Allow"] = ", ".join(sorted(part.strip() for part in allowed.split(",")))
        message = f"This route does not take that method; allowed: {headers['Allow']}."
        return ErrorReply(405, "invalid_request_error", message, headers=headers)
    return ErrorReply(
        error.status_code, "invalid_request_error", str(error.detail), headers=headers
    )


def _retry_headers(retry_after_s: float) -> dict[str, str]:
    wait_s = min(max(retry_after_s, 0.0), MAX_RETRY_AFTER_S)
    return {
        "Retry-After": str(max(1, math.ceil(wait_s))),
        "retry-after-ms": str(max(1, math.ceil(wait_s * 1000))),
    }


@contextmanager
def worded(wire_names: Mapping[str, str]) -> Iterator[None]:
    """Say errors of the block in the field names of a dialect (`max_tokens` has two on the wire).

    Raises: RequestError.
    """
    try:
        yield
    except InvalidParameter as error:
        allowed, hint = error.allowed, error.hint
        for name, wire_name in wire_names.items():
            allowed, hint = allowed.replace(name, wire_name), hint.replace(name, wire_name)
        param = wire_names.get(error.param or "", error.param or "")
        raise InvalidParameter(param, error.value, allowed, hint) from None
    except InvalidGrammar as error:
        param = error.param or ""
        raise InvalidGrammar(wire_names.get(param, param), error.reason) from None
    except ContextTooLong as error:
        length_name = wire_names.get("max_tokens", "max_tokens")
        message = error.message.replace("lower max_tokens", f"lower {length_name}")
        param = wire_names.get(error.param or "", error.param or "")
        raise RequestError(message, param, error.code) from None
    except RequestError as error:
        told_as = wire_names.get(error.param or "")
        if type(error) is not RequestError or told_as is None:
            raise
        message = re.sub(
            rf"{re.escape(error.param or '')}(?=[ )])", told_as, error.message, count=1
        )
        raise RequestError(message, told_as, error.code) from None


def describe_validation(
    error: ValidationError, schema: type[BaseModel], body: Mapping[str, Any], prefix: str = ""
) -> RequestError:
    """Turn pydantic's first complaint into our words: field, given, allowed.

    What is allowed is the `description` of the schema's field.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    schema_field = schema.model_fields.get(name)
    allowed = (schema_field.description if schema_field else None) or str(first["msg"])
    path = f"{prefix}{name}"
    return wrong_member(body, name, path, allowed)


def wrong_member(
    body: Mapping[str, Any], name: str, path: str, allowed: str, hint: str = ""
) -> RequestError:
    """What to say of a member at `path` that is missing, or is not what is allowed."""
    if name in body:
        return InvalidParameter(path, body[name], allowed, hint)
    text = f"{path} is missing; give {allowed}. {hint}".rstrip()
    return RequestError(text, path, "missing_required_parameter")
