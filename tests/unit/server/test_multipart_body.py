"""Forms with a file, however they are cut into pieces, and whatever strangers send instead."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.types import Message

from headrace.core.config import ServerConfig
from headrace.core.errors import RequestError
from headrace.server.error_responses import HttpRefusal
from headrace.server.multipart_body import Upload, read_upload

CONFIG = ServerConfig(max_file_bytes=2000, body_timeout_s=5)


class MemoryWriter:
    def __init__(self) -> None:
        self.data = b""

    @property
    def num_bytes(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data

    def discard(self) -> None:
        raise AssertionError("whoever gave the writer ends it")


def form(
    data: bytes = b"x", fields: dict[str, str] | None = None, name: str = "a.txt"
) -> tuple[bytes, str]:
    """A body as httpx, the client below OpenAI's, makes it; and its content type."""
    request = httpx.Request("POST", "http://x", data=fields or {}, files={"file": (name, data)})
    return request.read(), request.headers["content-type"]


def read(
    pieces: Sequence[bytes], content_type: str | None, config: ServerConfig = CONFIG
) -> Upload:
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": index < len(pieces) - 1}
        for index, piece in enumerate(pieces)
    ]
    waiting = iter(messages)

    async def receive() -> Message:
        message = next(waiting, None)
        if message is None:
            await asyncio.Event().wait()
            raise AssertionError
        return message

    upload = Upload(MemoryWriter())
    headers = {} if content_type is None else {"content-type": content_type}
    asyncio.run(read_upload(receive, headers, config, upload))
    return upload


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=1500) | st.sampled_from([b"\r\n--", b"\r\n--x\r\n" * 9]),
       cuts=st.lists(st.integers(0, 2500), max_size=6))  # fmt: skip
def test_every_cut_gives_the_same_file(data: bytes, cuts: list[int]) -> None:
    body, kind = form(data, {"purpose": "batch", "ä": "ö 🌊"}, "näme.jsonl")
    edges = [0, *sorted(cuts), len(body)]
    upload = read([body[i:j] for i, j in pairwise(edges)], kind)
    assert upload.writer.data == data  # type: ignore[attr-defined]
    assert (upload.has_file, upload.filename) == (True, "näme.jsonl")
    assert upload.fields == {"purpose": "batch", "ä": "ö 🌊"}


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=300) | st.binary(max_size=200).map(lambda b: form()[0][:-9] + b),
       kind=st.sampled_from(["multipart/form-data; boundary=x", form()[1]]))  # fmt: skip
def test_no_bytes_are_a_fault_of_ours(body: bytes, kind: str) -> None:
    try:
        read([body], kind)
    except RequestError:
        return


def part(disposition: bytes, data: bytes = b"v") -> bytes:
    return b"--x\r\ncontent-disposition: " + disposition + b"\r\n\r\n" + data + b"\r\n"


FILE = b'form-data; name="file"; filename="f"'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "ends in the middle"),
        (part(FILE), "ends in the middle"),
        (b"hello", "not valid multipart"),
        (part(b"form-data"), "has no name"),
        (part(b'form-data; name=""'), "has no name"),
        (part(b'form-data; name="file"'), "file is a text"),
        (part(FILE) + part(FILE), "file is given twice"),
        (part(b'form-data; name="p"') * 2, "p is given twice"),
        (part(b'form-data; name="p"', b"\xff") + b"--x--\r\n", "p is not UTF-8"),
        (part(b'form-data; name="file"; filename="\xff"'), "filename is not UTF-8"),
        (part(b'form-data; name="p"', b"v" * 20_000), "p has more bytes"),
        (b"".join(part(b'form-data; name="%d"' % i) for i in range(40)), "more than 32 fields"),
    ],
)
def test_a_broken_form_is_refused_in_words(body: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read([body], "multipart/form-data; boundary=x")


@pytest.mark.parametrize(
    "kind", [None, "", "application/json", "multipart/form-data", "multipart/mixed; boundary=x"]
)
def test_other_content_types(kind: str | None) -> None:
    with pytest.raises(HttpRefusal, match="multipart/form-data with a boundary") as caught:
        read([b""], kind)
    assert caught.value.status == 415


def test_a_boundary_of_any_length() -> None:
    with pytest.raises(RequestError, match="not valid"):
        read([b""], f"multipart/form-data; boundary={'x' * 1000}")


def test_a_file_that_is_too_large() -> None:
    body, kind = form(b"x" * 5000)
    with pytest.raises(HttpRefusal, match=r"more than 2\.0 KiB") as caught:
        read([body[:1000], body[1000:3000], body[3000:]], kind)
    assert caught.value.status == 413
    assert caught.value.headers == {"Connection": "close"}


def test_a_client_that_says_no_more() -> None:
    _, kind = form()
    config = ServerConfig(body_timeout_s=0.1)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def leave() -> Message:
        return {"type": "http.disconnect"}

    headers = {"content-type": kind}
    with pytest.raises(HttpRefusal, match=r"within 0\.1 s"):
        asyncio.run(read_upload(receive, headers, config, Upload(MemoryWriter())))
    with pytest.raises(ClientDisconnect):
        asyncio.run(read_upload(leave, headers, config, Upload(MemoryWriter())))
