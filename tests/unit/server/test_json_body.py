"""Bodies as they arrive: pieces, limits, depth."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from fakes.fake_clock import FakeClock
from headrace.core.config import ServerConfig
from headrace.core.errors import CapacityError, RequestError
from headrace.server.body_room import BodyRoom, BodyShare
from headrace.server.error_responses import HttpRefusal
from headrace.server.json_body import JsonLimits, decode_json_object, read_json_object

JSON = {"content-type": "application/json"}
CONFIG = ServerConfig(max_body_bytes=1024)


def share(room: BodyRoom | None = None) -> BodyShare:
    return BodyShare(room or BodyRoom(), CONFIG)


def receiver(*chunks: bytes, is_complete: bool = True) -> Callable[[], Awaitable[Any]]:
    messages: list[Any] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    if is_complete:
        messages[-1]["more_body"] = False
    else:
        messages.append({"type": "http.disconnect"})
    left = iter(messages)

    async def receive() -> Any:
        return next(left)

    return receive


async def test_a_body_in_pieces() -> None:
    receive = receiver(b'{"a"', b": [1, 2", b"]}")
    assert await read_json_object(receive, JSON, CONFIG, share()) == {"a": [1, 2]}


async def test_bodies_of_all_requests_have_a_limit_together() -> None:
    room, body = BodyRoom(), b'"' + b" " * 598 + b'"'
    config = ServerConfig(max_body_bytes=1024, max_total_body_bytes=1200)
    first, second = BodyShare(room, config), BodyShare(room, config)
    with pytest.raises(RequestError, match="is a string"):
        await read_json_object(receiver(body[:300], body[300:]), JSON, config, first)
    assert room.num_bytes == 600
    # What is held for a body is free again while the rest of it is thrown away.
    held = []

    async def receive() -> Any:
        held.append(room.num_bytes)
        return {"type": "http.request", "body": b" " * 301, "more_body": len(held) < 4}

    with pytest.raises(HttpRefusal) as large:
        await read_json_object(receive, JSON, config, second)
    assert large.value.status == 413
    assert held == [600, 901, 600, 600]
    with pytest.raises(CapacityError, match="max_total_body_bytes") as full:
        await read_json_object(receiver(body, b" "), JSON, config, second)
    assert not full.value.is_full
    assert room.num_bytes == 600
    assert await read_json_object(receiver(b"{}"), JSON, config, second) == {}
    first.give_back()
    second.give_back()
    assert room.num_bytes == 0


async def test_no_body_makes_way_in_vain() -> None:
    """What is answered keeps its room, and the slow body's alone is not enough."""
    room, clock = BodyRoom(), FakeClock()
    config = ServerConfig(max_body_bytes=1024, max_total_body_bytes=1200)
    answered, empty, slow, new = (BodyShare(room, config, clock) for _ in range(4))
    answered.take(1000)
    async with asyncio.timeout(60) as limit:
        with empty.arriving(limit), slow.arriving(limit):
            slow.take(100)
            clock.advance(5.0)
            with pytest.raises(CapacityError):
                new.take(201)
            assert not slow.has_made_way
            assert room.num_bytes == 1100
            new.take(100)
            assert not slow.has_made_way
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60) as its_limit:
                    slow._limit = its_limit
                    new.take(100)
                    assert slow.has_made_way
                    assert not empty.has_made_way
                    await asyncio.Event().wait()


async def test_a_body_whose_time_is_over_makes_way_too() -> None:
    """Between the end of its time and its task's next turn."""
    room, clock, taken = BodyRoom(), FakeClock(), asyncio.Event()
    config = ServerConfig(max_body_bytes=1024, max_total_body_bytes=1200)
    slow, new = BodyShare(room, config, clock), BodyShare(room, config, clock)

    def take() -> None:
        new.take(1000)
        taken.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0) as limit:
            with slow.arriving(limit):
                slow.take(600)
                clock.advance(5.0)
                asyncio.get_running_loop().call_soon(take)
                await asyncio.Event().wait()
    assert taken.is_set()
    assert not slow.has_made_way
    assert room.num_bytes == 1000


async def test_a_client_that_leaves() -> None:
    with pytest.raises(ClientDisconnect):
        await read_json_object(receiver(b"{", is_complete=False), JSON, CONFIG, share())


@pytest.mark.parametrize("num_chunks", [2, 3, 500])
async def test_a_large_body_is_read_no_further_than_needed(num_chunks: int) -> None:
    with pytest.raises(HttpRefusal) as large:
        await read_json_object(receiver(*[b" " * 1000] * num_chunks), JSON, CONFIG, share())
    assert large.value.status == 413


@pytest.mark.parametrize(
    "kind",
    ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"],
)
async def test_json_content_types(kind: str) -> None:
    assert await read_json_object(receiver(b"{}"), {"content-type": kind}, CONFIG, share()) == {}


@pytest.mark.parametrize("kind", ["text/json", "application/x-json", "json", "", "text/plain+json"])
async def test_other_content_types(kind: str) -> None:
    with pytest.raises(HttpRefusal) as wrong:
        await read_json_object(receiver(b"{}"), {"content-type": kind}, CONFIG, share())
    assert wrong.value.status == 415


@pytest.mark.parametrize("depth", [1, 4, 7])
def test_depth_is_exact(depth: int) -> None:
    body = b'{"a":' * depth + b"1" + b"}" * depth
    decode_json_object(body, JsonLimits(depth, 2000))
    with pytest.raises(RequestError, match=f"more than {depth} deep"):
        decode_json_object(b'{"a":' * depth + b"[]" + b"}" * depth, JsonLimits(depth, 2000))


def test_many_brackets_that_are_not_deep() -> None:
    body = b'{"a":[' + b",".join([b"[]"] * 1000) + b'],"b":"[[[[[[[[[["}'
    assert len(decode_json_object(body, JsonLimits(4, 2000))["a"]) == 1000


def test_lists_and_objects_are_counted_outside_of_texts() -> None:
    limits = JsonLimits(8, 10)
    text = '{"a": ["{{{[[[", "\\\\\\"[[[[[[", "[[[[[[[[\\\\"' + ", []" * 8 + "]}"
    for body in (text.encode(), bytearray(text, "utf-8")):
        assert len(decode_json_object(body, limits)["a"]) == 11
    with pytest.raises(
        RequestError, match=r"has 11 lists and objects; allowed: at most 10.*max_js"
    ):
        decode_json_object(text.replace(", []", ", [], []", 1).encode(), limits)
    names = ", ".join(f'"{number}": ":::"' for number in range(80))
    assert len(decode_json_object(f"{{{names}}}".encode(), limits)) == 80
    with pytest.raises(RequestError, match=r"has 81 names in objects; allowed: at most 80"):
        decode_json_object(f'{{"x": 1, {names}}}'.encode(), limits)
    # A text without an end is looked through once.
    with pytest.raises(RequestError, match="has 100001 lists"):
        decode_json_object(b'{"a": "' + b"[\\\\" * 100_000, limits)


async def test_a_byte_order_mark_and_a_compressed_body() -> None:
    assert await read_json_object(receiver(b"\xef\xbb\xbf{}"), JSON, CONFIG, share()) == {}
    for coding in ("identity", ""):
        headers = JSON | {"content-encoding": coding}
        assert await read_json_object(receiver(b"{}"), headers, CONFIG, share()) == {}
    with pytest.raises(HttpRefusal, match="Content-Encoding is 'gzip'") as packed:
        await read_json_object(
            receiver(b"{}"), JSON | {"content-encoding": "gzip"}, CONFIG, share()
        )
    assert packed.value.status == 415


HALF = "JSON is malformed: unexpected end of escaped utf-16 surrogate pair"
CUT_OFF = "Input data was truncated"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (rb'{"a":"\ud800"}', HALF),
        (rb'{"a":"\\\uDBFFx"}', HALF),
        (rb'{"\ud800":1}', HALF),
        (rb'{"a":"\ud83d\n"}', HALF),
        (rb'{"a":"\ud800 and more text"}', HALF),
        (rb'{"a":"\ud83d\ude0', CUT_OFF),
        (rb'{"a":"\ud83d', CUT_OFF),
        (rb'{"a":"\\ud83d"', CUT_OFF),
        (rb'{"a":"abc', CUT_OFF),
    ],
)
def test_half_a_pair_at_the_end_is_not_called_cut_off(body: bytes, reason: str) -> None:
    with pytest.raises(RequestError, match="not valid JSON") as refused:
        decode_json_object(body, JsonLimits(8, 100))
    assert reason in refused.value.message
