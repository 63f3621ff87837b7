"""Request bodies out of bytes: the same bytes, the same body, and fewer bytes a simpler one.

Hypothesis draws the bytes, fast, and shrinks them. Names of fields come from the schemas that the
server has loaded, so that a field of a new route is used without a line here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
from pydantic import BaseModel

JSON_TYPE = "application/json"
# What every dialect so far demands; a route ignores, and names, what it does not define.
WHOLE_BODY: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hi"}],
    "prompt": "hi",
    "input": "hi",
    "max_tokens": 3,
}
# Fields that a route knows and refuses.
_RESPONSES = ("messages", "prompt", "max_tokens")
_REFUSED = {"/v1/responses": _RESPONSES, "/v1/responses/input_tokens": _RESPONSES}
# Any file of a request's choosing would have this in its path.
PATH_MARK = "etc/headrace-fuzz"

_TEXTS = (
    *("", "a", "tiny", "user", "assistant", "system", "tool", "text", "auto", "none", "required"),
    *(
        "function",
        "json_object",
        "json_schema",
        "object",
        "string",
        "root",
        "x" * 3000,
        "²",
        "\x00",
    ),
    *("\ud800", "é🌊", "<|im_start|>", "{{ 1 }}", "24h", "low", "start: /a+/", "(", "a{99999}"),
    *(f"/{PATH_MARK}", f"../../{PATH_MARK}", f"file:///{PATH_MARK}", "1e999", "-1", "5"),
)
_NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 7, 20, -1, 129, 10**6, 2**31, 2**63, -(2**63) - 1, 10**400),
    *(0.5, 1.0, 1.5, -2.0, 1e-320, 1e308, -0.0),
)
_RAW = (
    b"",
    b" ",
    b"null",
    b"NaN",
    b"[1e999]",
    b'{"model": 1e999}',
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b'{"a": "\\ud800"}',
    b'{"a": "\xff"}',
    b'{"model": "tiny", "model": 1}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b"[" * 5000,
    b'{"a":' * 500 + b"1" + b"}" * 500,
    b'{"a": [' + b"[]," * 3000 + b"[]]}",
    b"\x00" * 100,
    b'"' + b"x" * 10000 + b'"',
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="../x"\r\n\r\nz\r\n--b--\r\n',
)
_TYPES = (
    *(JSON_TYPE, "application/json; charset=utf-16", "text/plain", "", "application/x-ndjson"),
    *("multipart/form-data; boundary=b", "application/vnd.api+json", "application/json" * 20),
)


def whole_body(path: str) -> dict[str, Any]:
    """A body that the route at `path` takes."""
    return {k: v for k, v in WHOLE_BODY.items() if k not in _REFUSED.get(path, ())}


def field_names() -> tuple[str, ...]:
    """Names of fields that any schema or table of the server's modules has."""
    names: set[str] = set(WHOLE_BODY)
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("headrace.server"):
            for name, value in vars(module).items():
                names |= _names_in(name, value)
    return tuple(sorted(names))


def _names_in(name: str, value: object) -> set[str]:
    if isinstance(value, type) and issubclass(value, BaseModel):
        return set(value.model_fields)
    if isinstance(value, type) and issubclass(value, msgspec.Struct):
        return set(value.__struct_fields__)
    if name.isupper() and isinstance(value, Mapping):
        return {key for key in value if isinstance(key, str)}
    return set()


class Choices:
    """Bytes as decisions; when they are used up every decision is the first one."""

    def __init__(self, data: bytes, names: tuple[str, ...], path: str = "") -> None:
        self._bytes = iter(data)
        self.names, self.whole_body = names, whole_body(path)

    def below(self, limit: int) -> int:
        number = next(self._bytes, 0)
        if limit > 256:
            number = number * 256 + next(self._bytes, 0)
        return number % limit

    def pick(self, options: tuple[Any, ...]) -> Any:
        return options[self.below(len(options))]

    def rest(self) -> bytes:
        return bytes(self._bytes)


def make_call(choices: Choices) -> tuple[bytes, dict[str, str]]:
    """A body and the headers it comes with; nine in sixteen are JSON objects of the right kind."""
    headers = {"content-type": JSON_TYPE}
    kind = choices.below(16)
    if kind < 9:
        return dump(mutate(choices)), headers
    if kind == 9:
        return dump(make_value(choices, 3)), headers
    if kind == 10:
        return choices.pick(_RAW), headers
    if kind == 11:
        headers["content-type"] = choices.pick(_TYPES)
        return choices.pick((dump(WHOLE_BODY), *_RAW)), headers
    if kind == 12:
        return choices.rest(), headers
    if kind == 13:
        headers[choices.pick(_HEADERS)] = choices.pick(_TEXTS)
        return dump(mutate(choices)), headers
    body = bytearray(dump(mutate(choices)))
    if kind == 14:
        return bytes(body[: choices.below(len(body))]), headers
    for _ in range(1 + choices.below(3)):
        body[choices.below(len(body))] ^= 1 + choices.below(255)
    return bytes(body), headers


_HEADERS = (
    *("x-request-id", "authorization", "x-api-key", "traceparent", "idempotency-key", "accept"),
    *("anthropic-version", "content-encoding", "host", "origin", "x-headrace-receipt"),
)


def mutate(choices: Choices) -> dict[str, Any]:
    """The whole body with some fields changed, added or left out."""
    body = dict(choices.whole_body)
    for _ in range(1 + choices.below(4)):
        if choices.below(8) == 7:
            body.pop(choices.pick(tuple(WHOLE_BODY)), None)
        else:
            body[choices.pick(choices.names)] = make_value(choices, 3)
    return body


def make_value(choices: Choices, depth: int) -> Any:
    """Any JSON value; the likelier ones are the small ones."""
    kind = choices.below(12 if depth else 6)
    if kind < 2:
        return choices.pick(_NUMBERS)
    if kind == 2:
        return choices.pick((True, False, None))
    if kind < 6:
        return choices.pick(_TEXTS)
    if kind < 8:
        return [make_value(choices, depth - 1) for _ in range(choices.below(4))]
    if kind < 10:
        return {
            choices.pick(_KEYS): make_value(choices, depth - 1) for _ in range(choices.below(4))
        }
    if kind == 10:
        return {
            choices.pick(choices.names): make_value(choices, depth - 1)
            for _ in range(choices.below(3))
        }
    return _shaped(choices, depth - 1)


_KEYS = (
    *("type", "role", "content", "text", "name", "function", "parameters", "arguments", "id"),
    *("schema", "json_schema", "properties", "$ref", "include_usage", "5", "²", "regex", "strict"),
)


def _shaped(choices: Choices, depth: int) -> Any:
    """Values that some field wants: messages, parts, tools, forms."""
    value = make_value(choices, depth)
    schema = choices.pick((value, {"type": "object"}, {"$ref": f"file:///{PATH_MARK}"}))
    shapes = (
        [{"role": choices.pick(_TEXTS), "content": value}],
        [{"type": "text", "text": value}],
        [{"type": "function", "function": {"name": "f", "parameters": schema}}],
        {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        {"type": "function", "function": {"name": "f"}},
        {choices.pick(("json", "regex", "choice", "grammar")): value},
        [{"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": value}]}],
        [{"name": "f", "input_schema": schema}],
    )
    return shapes[choices.below(len(shapes))]


def dump(value: Any) -> bytes:
    """JSON, with escapes for what is no UTF-8."""
    return json.dumps(value).encode()
