"""The lines of batch files: what may stand in an input file, and what results look like.

In: bytes of an input file. Out: lines to answer, or OpenAI's list of what is wrong with it; one
encoded line of output for each result. Knows nothing of storage, routes or order.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgspec

from headrace.core.batches import LineError
from headrace.core.errors import RequestError
from headrace.core.frozen import frozen
from headrace.core.units import format_bytes
from headrace.server.json_body import JsonLimits, decode_json_object

MAX_LINES = 50_000
# More would only be longer to read.
MAX_ERRORS = 100
MAX_CUSTOM_ID_LENGTH = 512


@frozen
class LineLimits:
    """What a line may be, by the server's limits on bodies."""

    max_bytes: int
    json: JsonLimits


# For a file that was checked: the server's limits may be smaller since.
CHECKED = LineLimits(2**32, JsonLimits(max_depth=256, max_objects=2**24, is_name_unique=False))


@frozen
class BatchLine:
    """A request of a batch. `number` counts from 1 and is its name inside the server."""

    number: int
    custom_id: str
    body: dict[str, Any]
    num_bytes: int


@frozen
class InputFacts:
    """What a whole input file is. `model` is None unless every line names the same."""

    num_lines: int
    model: str | None
    errors: tuple[LineError, ...] = ()


class LineRefusal(Exception):
    """A line that is no request of this batch."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.code, self.message, self.param = code, message, param
        super().__init__(message)


class ResponseBody(msgspec.Struct, frozen=True, omit_defaults=True):
    status_code: int
    request_id: str
    body: msgspec.Raw
    warnings: tuple[str, ...] = ()


class OutputLine(msgspec.Struct, frozen=True):
    """A line of an output or error file."""

    id: str
    custom_id: str
    response: ResponseBody | None
    error: dict[str, str] | None


def encode_output(
    custom_id: str, response: ResponseBody | None, error: dict[str, str] | None = None
) -> bytes:
    """Encode a result."""
    line_id = f"batch_req_{uuid.uuid4().hex}"
    return msgspec.json.encode(OutputLine(line_id, custom_id, response, error))


def read_lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, without empty ones. One that is too long comes cut."""
    number = 0
    while data := file.readline(max_bytes + 2):
        number += 1
        rest = data
        while len(rest) == max_bytes + 2 and not rest.endswith(b"\n"):
            rest = file.readline(max_bytes + 2)
        if number == 1 and data.startswith(b"\xef\xbb\xbf"):
            data = b"   " + data[3:]
        if data.strip():
            yield number, data.rstrip(b"\r\n")


def parse_line(number: int, data: bytes, endpoint: str, limits: LineLimits) -> BatchLine:
    """Raises: LineRefusal."""
    if len(data) > limits.max_bytes:
        text = (
            f"This line has more than {format_bytes(limits.max_bytes)}, this server's limit on "
            "bodies (max_body_bytes). Make several lines of it, or raise the limit."
        )
        raise LineRefusal("line_too_long", text)
    try:
        fields = decode_json_object(data, limits.json, "This line")
    except RequestError as error:
        raise LineRefusal("invalid_json_line", error.message) from None
    for name, kind, allowed in _FIELDS:
        if fields.get(name) is None:
            text = f"{name} is missing; give {allowed}."
            raise LineRefusal("missing_required_parameter", text, name)
        if type(fields[name]) is not kind:
            text = f"{name} has the wrong type; give {allowed}."
            raise LineRefusal("invalid_value", text, name)
    if fields["method"] != "POST":
        text = f"method is {fields['method'][:40]!r}; allowed: POST."
        raise LineRefusal("invalid_value", text, "method")
    if fields["url"] != endpoint:
        text = f"url is {fields['url'][:80]!r}; allowed: {endpoint}, the endpoint of the batch."
        raise LineRefusal("url_mismatch", text, "url")
    custom_id = fields["custom_id"]
    if not 1 <= len(custom_id) <= MAX_CUSTOM_ID_LENGTH:
        text = f"custom_id has {len(custom_id)} characters; allowed: 1 to {MAX_CUSTOM_ID_LENGTH}."
        raise LineRefusal("invalid_value", text, "custom_id")
    return BatchLine(number, custom_id, fields["body"], len(data))


def check_input(file: BinaryIO, endpoint: str, limits: LineLimits) -> InputFacts:
    """Read a whole file; what is wrong is told for every line, up to a number of them."""
    errors: list[LineError] = []
    seen: set[str] = set()
    models: set[object] = set()
    num_lines = 0
    for number, data in read_lines(file, limits.max_bytes):
        num_lines += 1
        if num_lines > MAX_LINES:
            text = f"The file has more than {MAX_LINES} requests. Make several batches."
            errors.insert(0, LineError("too_many_tasks", text))
            break
        try:
            line = parse_line(number, data, endpoint, limits)
            if line.custom_id in seen:
                text = (
                    f"custom_id {line.custom_id[:80]!r} stands in an earlier line; give each once."
                )
                raise LineRefusal("duplicate_custom_id", text, "custom_id")
        except LineRefusal as refusal:
            errors.append(LineError(refusal.code, refusal.message, number, refusal.param))
            if len(errors) >= MAX_ERRORS:
                break
            continue
        seen.add(line.custom_id)
        model = line.body.get("model")
        models.add(model if isinstance(model, str) else None)
    if not num_lines:
        errors.append(LineError("empty_file", "The file has no requests. Give one in each line."))
    return InputFacts(num_lines, _only_model(models), tuple(errors))


def count_answers(body: dict[str, Any]) -> int:
    """How many answers a request asks for."""
    n = body.get("n")
    return max(1, n if type(n) is int else 1) * _count(body.get("prompt"))


def weigh(body: dict[str, Any]) -> int:
    """How many requests of the engine a line has at once, as far as its body tells."""
    return max(count_answers(body), _count(body.get("input")))


def _count(texts: object) -> int:
    """Several texts or lists of tokens; anything else is one."""
    is_several = isinstance(texts, list) and texts and isinstance(texts[0], str | list)
    return len(texts) if is_several else 1  # type: ignore[arg-type]


def _only_model(models: set[object]) -> str | None:
    model = next(iter(models)) if len(models) == 1 else None
    is_name = isinstance(model, str) and len(model) <= 200 and model.isprintable()
    return model if isinstance(model, str) and is_name else None


_FIELDS: tuple[tuple[str, type, str], ...] = (
    ("custom_id", str, "a text that no other line has"),
    ("method", str, "POST"),
    ("url", str, "the endpoint of the batch"),
    ("body", dict, "an object, the body of the request"),
)
