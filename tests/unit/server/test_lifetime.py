"""Counting, draining, closing."""

from __future__ import annotations

import asyncio

import pytest

from headrace.core.errors import CapacityError
from headrace.server.lifetime import Lifetime


async def run(lifetime: Lifetime, end: asyncio.Event) -> None:
    async def work() -> None:
        await end.wait()

    task = asyncio.create_task(work())
    with lifetime.track(task):
        await asyncio.wait((task,))


async def test_requests_are_counted() -> None:
    lifetime, end = Lifetime(), asyncio.Event()
    requests = [asyncio.create_task(run(lifetime, end)) for _ in range(3)]
    await asyncio.sleep(0)
    assert lifetime.num_running == 3
    lifetime.check_open()
    end.set()
    await asyncio.gather(*requests)
    assert lifetime.num_running == 0


async def test_a_drain_waits_for_what_runs() -> None:
    lifetime, end = Lifetime(), asyncio.Event()
    request = asyncio.create_task(run(lifetime, end))
    await asyncio.sleep(0)
    drain = asyncio.create_task(lifetime.drain(10))
    await asyncio.sleep(0)
    with pytest.raises(CapacityError) as closed:
        lifetime.check_open()
    assert not closed.value.is_full
    assert not drain.done()
    end.set()
    await drain
    assert not lifetime.is_closing
    await request


async def test_a_drain_out_of_time_stops_what_is_left() -> None:
    lifetime = Lifetime()
    request = asyncio.create_task(run(lifetime, asyncio.Event()))
    await asyncio.sleep(0)
    await lifetime.drain(0.01)
    assert lifetime.is_closing
    await asyncio.wait_for(request, 60)
    assert lifetime.num_running == 0


async def test_draining_an_idle_server_takes_no_time() -> None:
    lifetime = Lifetime()
    await asyncio.wait_for(lifetime.drain(1000), 60)
    assert lifetime.is_draining
    assert not lifetime.is_closing
