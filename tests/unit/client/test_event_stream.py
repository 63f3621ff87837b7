"""Event streams: the same events however the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.client import event_stream
from headrace.client.event_stream import EventStreamDecoder, EventTooLong

STREAM = (
    b": a comment\n\ndata: {\"a\": 1}\n\nevent: x\r\ndata:two\r\ndata: lines\r\nid: 7\r\n\r\n"
    b"data: \xf0\x9f\x8c\x8a\r\rdata\n\ndata: [DONE]\n\n"
)  # fmt: skip
EVENTS = [b'{"a": 1}', b"two\nlines", "🌊".encode(), b"", b"[DONE]"]


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=12).map(sorted))
def test_any_cut_gives_the_same_events(cuts: list[int]) -> None:
    decoder = EventStreamDecoder()
    edges = [0, *cuts, len(STREAM)]
    found = []
    for begin, end in itertools.pairwise(edges):
        found += decoder.feed(STREAM[begin:end])
    assert found == EVENTS
    assert not decoder.has_partial


def test_every_byte_alone_gives_the_same_events() -> None:
    decoder = EventStreamDecoder()
    assert [e for byte in STREAM for e in decoder.feed(bytes([byte]))] == EVENTS


@pytest.mark.parametrize("rest", [b"data: half", b"data: whole\n"])
def test_an_event_without_its_end_is_noticed(rest: bytes) -> None:
    decoder = EventStreamDecoder()
    assert decoder.feed(b"data: a\n\n" + rest) == [b"a"]
    assert decoder.has_partial


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 100)
    decoder = EventStreamDecoder()
    decoder.feed(b"data: " + b"x" * 90)
    with pytest.raises(EventTooLong, match="more than 100 bytes"):
        decoder.feed(b"x" * 20)
