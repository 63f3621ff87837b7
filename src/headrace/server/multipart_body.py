"""Multipart bodies: from bytes of a stranger to a few short fields and one file on the disk.

In: the ASGI `receive` channel, headers, and a writer for the file. Out: the fields and the writer
with the whole file in it, or a refusal. The file is never held in memory, and limits are on its
size, on the fields and on how long the client may say nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from headrace.core.config import ServerConfig
from headrace.core.errors import RequestError
from headrace.core.files import FileWriter
from headrace.core.units import format_bytes
from headrace.server.error_responses import HttpRefusal

FILE = "file"
_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 16 * 1024
# A client reads the refusal only after it has sent its body: some excess is read and thrown away.
_MAX_EXCESS_BYTES = 4 * 1024**2
_CLOSE = {"Connection": "close"}


@dataclass(slots=True)
class Upload:
    """What a form held. `writer` has the bytes of the part `file`; whoever gets it ends it."""

    writer: FileWriter
    filename: str = ""
    has_file: bool = False
    fields: dict[str, str] = field(default_factory=dict)


class _Form:
    """Takes the parser's events; what is for the file waits in `waiting` to be written."""

    def __init__(self, upload: Upload) -> None:
        self.waiting = bytearray()
        self.is_complete = False
        self._upload = upload
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name, self._is_file = "", False
        self._text = bytearray()

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Under the parser's names."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._disposition, self._text = b"", bytearray()

    def _end_header(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        self._name = _decode(options.get(b"name", b""), "the name of a field")
        if not self._name:
            raise RequestError("A part of the form has no name. Send fields with names.")
        self._is_file = self._name == FILE
        if self._name in self._upload.fields or (self._is_file and self._upload.has_file):
            raise RequestError(f"{self._name} is given twice; give it once.", self._name)
        if self._is_file:
            if b"filename" not in options:
                raise RequestError("file is a text; send it as a file with a filename.", FILE)
            self._upload.filename = _decode(options[b"filename"], "filename")
            self._upload.has_file = True
        elif len(self._upload.fields) >= _MAX_FIELDS:
            raise RequestError(f"The form has more than {_MAX_FIELDS} fields. Send fewer.")

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.waiting += data[start:end]
            return
        self._text += data[start:end]
        if len(self._text) > _MAX_FIELD_BYTES:
            allowed = f"at most {_MAX_FIELD_BYTES}"
            raise RequestError(
                f"{self._name} has more bytes than are allowed: {allowed}.", self._name
            )

    def _end(self) -> None:
        if not self._is_file:
            self._upload.fields[self._name] = _decode(bytes(self._text), self._name)

    def _finish(self) -> None:
        self.is_complete = True


async def read_upload(
    receive: Receive, headers: Mapping[str, str], config: ServerConfig, upload: Upload
) -> None:
    """Read a form into `upload`.

    Raises: HttpRefusal 413 and 415, RequestError for a form that is broken, StoreError.
    """
    form = _Form(upload)
    parser = _open_parser(headers.get("content-type"), form)
    is_last = False
    while not is_last:
        data, is_last = await _next(receive, config.body_timeout_s)
        try:
            parser.write(data)
        except FormParserError as error:
            raise RequestError(f"The form is not valid multipart/form-data: {error}.") from None
        if upload.writer.num_bytes + len(form.waiting) > config.max_file_bytes:
            await _throw_away(receive, is_last, config.body_timeout_s)
            raise HttpRefusal(
                413,
                f"The file has more than {format_bytes(config.max_file_bytes)}, this server's "
                "limit (server.max_file_bytes). Send less, or raise the limit.",
                _CLOSE,
            )
        if form.waiting:
            await asyncio.to_thread(upload.writer.write, bytes(form.waiting))
            form.waiting.clear()
    if not form.is_complete:
        raise RequestError("The form ends in the middle. Send it whole.")


def _open_parser(content_type: str | None, form: _Form) -> MultipartParser:
    """Raises: HttpRefusal 415."""
    kind, options = parse_options_header(content_type or "")
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        shown = repr((content_type or "")[:100]) if content_type else "missing"
        raise HttpRefusal(
            415,
            f"Content-Type is {shown}; allowed: multipart/form-data with a boundary. Send the file "
            "as a form.",
        )
    try:
        return MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
    except FormParserError as error:
        raise RequestError(f"The form is not valid multipart/form-data: {error}.") from None


async def _next(receive: Receive, timeout_s: float) -> tuple[bytes, bool]:
    """The next bytes, and whether they are the last. Raises: HttpRefusal when none come."""
    try:
        async with asyncio.timeout(timeout_s):
            message = await receive()
    except TimeoutError:
        raise HttpRefusal(
            400, f"No more of the request body came within {timeout_s:g} s. Send it again.", _CLOSE
        ) from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), not message.get("more_body", False)


async def _throw_away(receive: Receive, is_last: bool, timeout_s: float) -> None:
    num_bytes = 0
    while not is_last and num_bytes < _MAX_EXCESS_BYTES:
        data, is_last = await _next(receive, timeout_s)
        num_bytes += len(data)


def _decode(data: bytes, name: str) -> str:
    """Raises: RequestError."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{name} is not UTF-8. Send text as UTF-8.") from None
