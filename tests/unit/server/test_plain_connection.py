"""The short way for plain requests says what h11 says: of every request, and of every noise."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.server.plain_connection import PlainConnection, PlainRequest

POST = (
    b"POST /v1/chat/completions?a=%20b HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
    b"Content-Type: application/json\r\nX-Name:  two  words\t\r\nContent-Length: 7\r\n"
)
PLAIN = [
    POST + b'\r\n{"a":1}',
    POST + b'Connection: close\r\n\r\n{"a":1}',
    POST + b'Connection: Keep-Alive\r\n\r\n{"a":1}',
    b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /health HTTP/1.1\r\nhost:\r\n\r\n",
    b"DELETE /v1/files/1 HTTP/1.1\r\nhost: x\r\nContent-Length: 0\r\n\r\n",
]
CHUNKED = POST.replace(b"Content-Length: 7", b"Transfer-Encoding: chunked")
OTHER = [
    CHUNKED + b'\r\n7\r\n{"a":1}\r\n0\r\n\r\n',
    POST + b'Transfer-Encoding: chunked\r\n\r\n7\r\n{"a":1}\r\n0\r\n\r\n',
    POST + b'Content-Length: 8\r\n\r\n{"a":1}',
    POST + b'Content-Length: 7\r\n\r\n{"a":1}',
    POST.replace(b": 7", b": +7") + b'\r\n{"a":1}',
    POST.replace(b": 7", b": 7, 7") + b'\r\n{"a":1}',
    POST.replace(b": 7", b": " + b"0" * 30 + b"7") + b'\r\n{"a":1}',
    POST + b'Host: y\r\n\r\n{"a":1}',
    POST + b'Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n{"a":1}',
    POST + b'Expect: 100-continue\r\n\r\n{"a":1}',
    POST + b'Connection: close, x\r\n\r\n{"a":1}',
    POST + b'X-Name : y\r\n\r\n{"a":1}',
    POST + b'X-Name: y\r\n folded\r\n\r\n{"a":1}',
    POST + b'X-Name: \xe4\r\n\r\n{"a":1}',
    POST + b'X-Name: a\x00b\r\n\r\n{"a":1}',
    POST + b'X-Name: a\rb\r\n\r\n{"a":1}',
    POST.replace(b"\r\n", b"\n") + b'\n{"a":1}',
    POST.replace(b"HTTP/1.1", b"HTTP/1.0") + b'\r\n{"a":1}',
    b"\r\n" + POST + b'\r\n{"a":1}',
    b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"y" * 20_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"y" * 20_000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]
ANSWERS: list[tuple[int, list[tuple[bytes, bytes]], list[bytes]]] = [
    (200, [(b"content-type", b"text/event-stream")], [b"data: 1\n\n", b"", b"data: 2\n\n"]),
    (200, [(b"content-length", b"5")], [b"whole"]),
    (429, [(b"content-length", b"2"), (b"connection", b"close")], [b"{}"]),
    (204, [], [b""]),
]


def serve(connection: Any, pieces: list[bytes], answer: int) -> tuple[list[Any], bytes]:
    """What a connection is heard to say when uvicorn asks it, and the bytes that it sends."""
    heard: list[Any] = []
    sent, method = b"", b""
    status, headers, body = ANSWERS[answer]
    for piece in pieces:
        connection.receive_data(piece)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return [*heard, "error"], sent
            if event in (h11.NEED_DATA, h11.PAUSED):
                heard += ["paused"] if event is h11.PAUSED and heard[-1] != "paused" else []
                break
            if isinstance(event, h11.Data):
                # How a body is cut is not promised.
                heard[-1:] = [heard[-1] + bytes(event.data)]
            elif isinstance(event, h11.Request):
                method = event.method
                headers_read = [(bytes(n).lower(), bytes(v)) for n, v in event.headers]
                heard += [(event.method, event.target, event.http_version, headers_read)]
                heard += [connection.they_are_waiting_for_100_continue, b""]
            else:
                heard += [type(event), connection.our_state, connection.their_state]
                sent += connection.send(h11.Response(status_code=status, headers=headers))
                for part in body:
                    # As uvicorn does.
                    data = b"" if method == b"HEAD" else part
                    sent += connection.send(h11.Data(data=data))
                sent += connection.send(h11.EndOfMessage())
                heard += [connection.our_state, connection.their_state]
                if connection.our_state is connection.their_state is h11.DONE:
                    connection.start_next_cycle()
    return heard, sent


def read_answers(sent: bytes, methods: list[bytes]) -> list[Any]:
    """The answers as a client reads them."""
    client = h11.Connection(h11.CLIENT)
    client.receive_data(sent)
    client.receive_data(b"")
    read: list[Any] = []
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        client.send(h11.EndOfMessage())
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Response | h11.Data)
            if isinstance(event, h11.Data):
                read[-1:] = [read[-1] + bytes(event.data)]
            else:
                read += [event.status_code, sorted(event.headers), b""]
        if client.our_state is h11.DONE:
            client.start_next_cycle()
    assert client.trailing_data[0] == b""
    return read


def check_same(pieces: list[bytes], answer: int) -> None:
    ours, our_bytes = serve(PlainConnection(h11.Connection(h11.SERVER)), pieces, answer)
    theirs, their_bytes = serve(h11.Connection(h11.SERVER), pieces, answer)
    assert ours == theirs
    num = sum(said is h11.EndOfMessage for said in ours)
    methods = [said[0] for said in ours if isinstance(said, tuple)][:num]
    assert read_answers(our_bytes, methods) == read_answers(their_bytes, methods)


def first_event(data: bytes) -> object:
    connection = PlainConnection(h11.Connection(h11.SERVER))
    connection.receive_data(data)
    try:
        return connection.next_event()
    except h11.RemoteProtocolError as error:
        return error


@pytest.mark.parametrize("answer", range(len(ANSWERS)))
@pytest.mark.parametrize("request_bytes", PLAIN)
def test_a_plain_request_goes_the_short_way_to_the_same_end(
    request_bytes: bytes, answer: int
) -> None:
    assert type(first_event(request_bytes)) is PlainRequest
    check_same([request_bytes], answer)


@pytest.mark.parametrize("request_bytes", OTHER)
def test_what_is_not_plain_is_judged_by_h11(request_bytes: bytes) -> None:
    assert type(first_event(request_bytes)) is not PlainRequest
    check_same([request_bytes], 0)


REQUESTS = st.sampled_from([*PLAIN, *(other for other in OTHER if len(other) < 1000)])


@given(st.data())
def test_any_bytes_in_any_pieces_are_read_as_h11_reads_them(data: st.DataObject) -> None:
    joined = b"".join(data.draw(st.lists(REQUESTS, min_size=1, max_size=3)))
    for _ in range(data.draw(st.integers(0, 2))):
        place = data.draw(st.integers(0, len(joined) - 1))
        noise = data.draw(st.sampled_from([b"", b"\r", b"\n", b" ", b":", b"\x00", b"7", b"\xff"]))
        joined = joined[:place] + noise + joined[place + 1 :]
    cuts = sorted(data.draw(st.lists(st.integers(1, max(1, len(joined) - 1)), max_size=3)))
    pieces = [joined[a:b] for a, b in zip([0, *cuts], [*cuts, len(joined)], strict=True)]
    answer = data.draw(st.integers(0, len(ANSWERS) - 1))
    check_same([piece for piece in pieces if piece], answer)


@pytest.mark.parametrize(("body", "why"), [(b"12", "Too little"), (b"1234", "Too much")])
def test_an_answer_of_another_length_than_it_says_is_refused(body: bytes, why: str) -> None:
    connection = PlainConnection(h11.Connection(h11.SERVER))
    connection.receive_data(PLAIN[0])
    while connection.next_event() is not h11.NEED_DATA:
        pass
    connection.send(h11.Response(status_code=200, headers=[("content-length", "3")]))
    with pytest.raises(h11.LocalProtocolError, match=why):
        for event in (h11.Data(data=body), h11.EndOfMessage()):
            connection.send(event)
    assert connection.our_state is h11.ERROR
