"""Request bodies: from bytes of a stranger to a JSON object, within limits.

In: the ASGI `receive` channel and headers. Out: a dict, or a refusal that says why. Limits are on
size, alone and of all bodies, on the time the bytes take, on nesting and on how many lists and
objects there are, so that no body can exhaust memory or the stack, or hold up the event loop.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from headrace.core.config import ServerConfig
from headrace.core.errors import CapacityError, RequestError
from headrace.core.frozen import frozen
from headrace.server.body_room import RETRY_AFTER_S, BodyShare
from headrace.server.error_responses import HttpRefusal
from headrace.server.json_names import find_repeated_name

# Without backing up: a text that never ends is looked through once.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
# Half of a surrogate pair so near the end that msgspec takes the other half for cut off.
_HALF_PAIR = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?:[^\\]|\\[^u])")
_HALF_PAIR_REASON = "JSON is malformed: unexpected end of escaped utf-16 surrogate pair"
_TAIL_BYTES = 12
_CHARSET = re.compile(r'(?:^|;)\s*charset\s*=\s*"?([^";\s]*)')
_BOM = b"\xef\xbb\xbf"
# Of objects as large as they come: biases of tokens.
_NAMES_PER_OBJECT = 8
# A client reads the answer only after it has sent its body: some excess is read and thrown away.
_EXCESS_FACTOR = 4


def check_content_type(content_type: str | None) -> None:
    """Accept JSON only, in UTF-8: browsers may send other types across sites without asking.

    Raises: HttpRefusal 415.
    """
    kind, _, parameters = (content_type or "").lower().partition(";")
    kind = kind.strip()
    is_json = kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )
    if not is_json:
        given = repr(kind[:100]) if kind else "missing"
        raise HttpRefusal(
            415, f"Content-Type is {given}; allowed: application/json. Send the body as JSON."
        )

    charset = next((found for found in _CHARSET.findall(parameters)), "utf-8")
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise HttpRefusal(
            415,
            f"The charset of Content-Type is {charset[:100]!r}; allowed: utf-8, as JSON has it.",
        )


def _check_coding(coding: str | None) -> None:
    """Raises: HttpRefusal 415 for a body that was compressed."""
    if coding is not None and coding.strip().lower() not in ("", "identity"):
        raise HttpRefusal(
            415,
            f"Content-Encoding is {coding[:100]!r}; allowed: identity. Send the body as it is.",
            {"Accept-Encoding": "identity"},
        )


async def read_json_object(
    receive: Receive, headers: Mapping[str, str], config: ServerConfig, share: BodyShare
) -> dict[str, Any]:
    """Read and decode the body.

    Raises: HttpRefusal 413 and 415, RequestError for what is not a JSON object, CapacityError.
    Mutates: share, which has the body's room.
    """
    check_content_type(headers.get("content-type"))
    _check_coding(headers.get("content-encoding"))
    try:
        async with asyncio.timeout(config.body_timeout_s) as limit:
            with share.arriving(limit):
                body = await _read(receive, config.max_body_bytes, share)
    except TimeoutError:
        if share.has_made_way:
            raise CapacityError(
                "The request body came slowly, and others needed its room (max_total_body_bytes). "
                "Send the request again later.",
                RETRY_AFTER_S,
                is_full=False,
            ) from None
        raise HttpRefusal(
            400,
            f"The request body did not arrive within {config.body_timeout_s:g} s. Send it again.",
            {"Connection": "close"},
        ) from None
    return decode_json_object(body, JsonLimits.of(config))


async def _read(receive: Receive, max_bytes: int, share: BodyShare) -> bytearray:
    body, num_bytes, is_complete = bytearray(), 0, False
    full: CapacityError | None = None
    while not is_complete and num_bytes <= max_bytes * _EXCESS_FACTOR:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        num_bytes += len(chunk)
        try:
            if full is None and num_bytes <= max_bytes:
                share.take(len(chunk))
                body += chunk
        except CapacityError as error:
            full = error
        if full is not None or num_bytes > max_bytes:
            body.clear()
            share.give_back()
        is_complete = not message.get("more_body", False)
    if num_bytes > max_bytes:
        raise HttpRefusal(
            413,
            f"The request body has more than {max_bytes} bytes, this server's limit "
            "(max_body_bytes). Send less, or raise the limit.",
            {"Connection": "close"},
        )
    if full is not None:
        raise full
    return body


@frozen
class JsonLimits:
    """Lists and objects that may be in a body: within each other, and in all.

    `is_name_unique`: a name that its object has before is an error.
    """

    max_depth: int
    max_objects: int
    is_name_unique: bool = True

    @classmethod
    def of(cls, config: ServerConfig) -> JsonLimits:
        """Those of the settings."""
        return cls(config.max_json_depth, config.max_json_objects)


def decode_json_object(
    body: bytes | bytearray, limits: JsonLimits, what: str = "The request body"
) -> dict[str, Any]:
    """Decode a JSON object; `what` names it in errors.

    Raises: RequestError for broken JSON, another kind of value, too much nesting, too many objects,
    a name that an object has twice.
    """
    too_deep = RequestError(
        f"{what} nests lists and objects more than {limits.max_depth} deep, this server's "
        "limit (max_json_depth). Send a flatter body."
    )
    num_openers, num_colons = _count_openers(body), body.count(b":")
    max_names = _NAMES_PER_OBJECT * limits.max_objects
    if num_openers > limits.max_objects or num_colons > max_names:
        # Those in texts are none.
        bare = _STRING.sub(b"", body)
        for num, most, counted in (
            (_count_openers(bare), limits.max_objects, "lists and objects"),
            (bare.count(b":"), max_names, "names in objects"),
        ):
            if num > most:
                raise RequestError(
                    f"{what} has {num} {counted}; allowed: at most {most}, this server's limit "
                    "(max_json_objects). Send several requests."
                )
    if body.startswith(_BOM):
        # Spaces in its place: what is wrong has its own place in errors.
        body = b"   " + body[len(_BOM) :]
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise too_deep from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = _why_broken(body, error)
        raise RequestError(f"{what} is not valid JSON: {reason}. Send a JSON object.") from None
    if not isinstance(value, dict):
        kind = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
        given = kind.get(type(value), "a number")
        raise RequestError(f"{what} is {given}; allowed: a JSON object.")
    if num_openers > limits.max_depth and _is_deeper(value, limits.max_depth):
        raise too_deep
    try:
        repeated = find_repeated_name(body, value, num_colons) if limits.is_name_unique else None
    except RecursionError:
        raise too_deep from None
    if repeated is not None:
        text = f"{what} has {repeated} twice; allowed: each name once in an object. Leave one out."
        raise RequestError(text, repeated, "invalid_value")
    return value


def _why_broken(body: bytes | bytearray, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        # It counts from the beginning of a text inside.
        return f"JSON is malformed: not UTF-8 (byte {_not_utf8_at(body)})"
    reason = str(error)
    is_half = reason.endswith("truncated") and _HALF_PAIR.search(body[-_TAIL_BYTES:])
    return _HALF_PAIR_REASON if is_half else reason


def _not_utf8_at(body: bytes | bytearray) -> int:
    """Where the first byte is that is no text, from 0 as msgspec counts."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(body)


def _count_openers(body: bytes | bytearray) -> int:
    return body.count(b"[") + body.count(b"{")


def _is_deeper(value: dict[str, Any], max_depth: int) -> bool:
    """Walk level by level, without recursion."""
    level: list[Any] = [value]
    for _ in range(max_depth):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
