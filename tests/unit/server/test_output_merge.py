"""Batches in order, heartbeats, errors after outputs, and nothing left open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from fakes.fake_backend import FakeBackend
from headrace.core.config import ServerConfig
from headrace.core.errors import BackendError, CapacityError, RequestError
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.server.output_merge import OutputMerge, open_batches

CONFIG = ServerConfig()


def request(number: int = 0) -> GenerateRequest:
    return GenerateRequest(request_id=f"r{number}", model="tiny", prompt="ab")


async def collect(backend: FakeBackend, num_requests: int) -> list[tuple[int, str]]:
    seen = []
    requests = [request(number) for number in range(num_requests)]
    async with open_batches(backend, requests, CONFIG) as batches:
        async for batch in batches:
            seen += [(index, output.deltas[0].text) for index, output in batch]
    return seen


async def test_each_request_keeps_its_order() -> None:
    backend = FakeBackend(pieces=("a", "b", "c"))
    seen = await collect(backend, 3)
    for number in range(3):
        assert [text for index, text in seen if index == number] == ["a", "b", "c"]
    assert (backend.num_running, backend.closed) == (0, [])


async def test_what_waits_comes_in_one_batch() -> None:
    backend = FakeBackend(pieces=("x",) * 10)
    async with open_batches(backend, [request()], CONFIG) as batches:
        assert len(await anext(batches)) == 10


async def test_a_slow_reader_holds_back_its_own_stream() -> None:
    made = 0

    async def count(_: object, step: int) -> None:
        nonlocal made
        made = step + 1

    backend = FakeBackend(pieces=("x",) * 1000, before_step=count)
    async with open_batches(backend, [request()], CONFIG) as batches:
        await anext(batches)
        await asyncio.sleep(0.05)
        assert 64 <= made <= 140
    assert backend.closed == ["r0"]


async def test_outputs_before_an_error_are_delivered() -> None:
    async def fail(_: object, step: int) -> None:
        if step == 2:
            raise BackendError("gone")

    backend = FakeBackend(pieces=("a", "b", "c"), before_step=fail)
    seen = []
    with pytest.raises(BackendError, match="gone"):
        async with open_batches(backend, [request()], CONFIG) as batches:
            async for batch in batches:
                seen += [output.deltas[0].text for _, output in batch]
    assert seen == ["a", "b"]


async def test_empty_batches_are_heartbeats_and_time_ends() -> None:
    async def wait(_: object, step: int) -> None:
        await asyncio.Event().wait()

    backend = FakeBackend(before_step=wait)
    config = ServerConfig(heartbeat_s=0.02, request_timeout_s=0.5)
    beats = []
    with pytest.raises(RequestError, match=r"not complete after 0\.5 s"):
        async with open_batches(backend, [request()], config) as batches:
            async for batch in batches:
                beats.append(batch)
    assert 2 <= len(beats) <= 25
    assert all(batch == [] for batch in beats)
    assert backend.closed == ["r0"]


async def test_a_refused_request_closes_those_admitted() -> None:
    async def refuse(asked: GenerateRequest) -> None:
        if asked.request_id == "r1":
            raise CapacityError("full")

    backend = FakeBackend(admission=refuse)
    with pytest.raises(CapacityError):
        await collect(backend, 3)
    assert (backend.num_running, backend.closed) == (0, ["r0"])
    assert len(backend.requests) == 2


async def test_closing_at_once_stops_streams_that_never_ran() -> None:
    backend = FakeBackend()
    async with open_batches(backend, [request(0), request(1)], CONFIG):
        pass
    assert (backend.num_running, sorted(backend.closed)) == (0, ["r0", "r1"])


async def test_no_task_outlives_its_merge() -> None:
    before = asyncio.all_tasks()

    async def endless() -> AsyncGenerator[RequestOutput, None]:
        await asyncio.Event().wait()
        yield  # type: ignore[misc]

    merge = OutputMerge([endless(), endless()])
    assert await merge.next_batch(0.01) == []
    await merge.close()
    assert asyncio.all_tasks() == before
