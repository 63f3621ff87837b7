"""Plain answers read as h11 reads them, however they are cut; any other is left to h11."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.client.plain_response import BrokenResponse, NotPlain, PlainResponse

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Y:  a b \r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MAX_HEAD = 65536


def read_plain(pieces: list[bytes]) -> tuple[int, dict[str, str], bytes, bytes]:
    """Status, headers, body, and what is left when it is over."""
    response, head, body = PlainResponse(), None, b""
    for piece in pieces:
        response.feed(piece)
        if head is None:
            head = response.head(MAX_HEAD)
        if head is not None:
            body += response.piece()
    assert response.is_over
    assert head is not None
    return head[0], dict(head[1]), body, response.received


def read_h11(data: bytes) -> tuple[int, dict[str, str], bytes, bytes]:
    protocol = h11.Connection(our_role=h11.CLIENT)
    protocol.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
    protocol.send(h11.EndOfMessage())
    protocol.receive_data(data)
    head = protocol.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(event := protocol.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    headers = {name.decode(): value.decode() for name, value in head.headers}
    return head.status_code, headers, body, protocol.trailing_data[0]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(ends)]


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    if draw(st.booleans()):
        body = b"".join(chunks)
        return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    extension = draw(st.sampled_from((b"", b";a=b", b"; x", b"  ")))
    trailer = draw(st.sampled_from((b"", b"X-Sum: 1\r\n", b"A: b\r\nC: d\r\n")))
    lines = (b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
    return CHUNKED + b"".join(lines) + b"0\r\n" + trailer + b"\r\n"


@given(answers(), st.lists(st.integers(0, 2000), max_size=8), st.sampled_from((b"", b"HTTP/1.1")))
def test_any_cut_gives_what_h11_reads(answer: bytes, places: list[int], more: bytes) -> None:
    assert read_plain(cut(answer, places)) == read_h11(answer)
    # What comes after the end is no part of it, and the connection is not used again.
    assert read_plain([answer + more])[2:] == (*read_h11(answer)[2:3], more)


def test_every_byte_alone_gives_the_same() -> None:
    answer = CHUNKED + b"3\r\nabc\r\na\r\n0123456789\r\n0\r\nX: y\r\n\r\n"
    assert read_plain([answer[i : i + 1] for i in range(len(answer))])[2] == b"abc0123456789"


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nupgrade: h2c\r\ncontent-length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nfolded: a\r\n b\r\ncontent-length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nname : a\r\ncontent-length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 1\n\n",
        b"nonsense\r\n\r\n",
        b"x" * (MAX_HEAD + 1),
    ],
)
def test_what_is_not_plain_is_left_whole(head: bytes) -> None:
    response = PlainResponse()
    response.feed(head)
    with pytest.raises(NotPlain):
        response.head(MAX_HEAD)
    assert response.received == head


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"\r\n",
        b"3\r\nabcd\r\n",
        b"-1\r\n",
        b"fffffffff\r\n",
        b"1" * 5000,
        b"0\r\n" + b"a" * 5000,
    ],
)
def test_what_is_no_chunk_is_an_error(body: bytes) -> None:
    response = PlainResponse()
    response.feed(CHUNKED + body)
    assert response.head(MAX_HEAD) is not None
    with pytest.raises(BrokenResponse):
        response.piece()
