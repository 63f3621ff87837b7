"""Room for answers of batches: in the order of asking, never more than there is, never lost."""

from __future__ import annotations

import asyncio
import random

from headrace.server.slots import Slots


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_large_one_is_not_passed_by_small_ones() -> None:
    slots, order = Slots(4), list[str]()

    async def take(name: str, num_wanted: int) -> int:
        num_taken = await slots.take(num_wanted)
        order.append(name)
        return num_taken

    assert await slots.take(3) == 3
    tasks = [asyncio.create_task(take(name, num)) for name, num in (("big", 9), ("small", 1))]
    await turns()
    assert order == []
    slots.give(3)
    await turns()
    assert (order, slots.num_taken) == (["big"], 4)
    slots.give(4)
    assert await asyncio.gather(*tasks) == [4, 1]
    assert order == ["big", "small"]


async def test_whoever_gives_up_lets_the_next_one_in() -> None:
    slots = Slots(2)
    await slots.take(1)
    big = asyncio.create_task(slots.take(2))
    small = asyncio.create_task(slots.take(1))
    await turns()
    big.cancel()
    assert await small == 1
    assert slots.num_taken == 2


async def test_nothing_is_lost_whenever_tasks_are_cancelled() -> None:
    source = random.Random(1)
    slots = Slots(5)

    async def work() -> None:
        num_taken = await slots.take(source.randrange(1, 8))
        try:
            assert 0 < slots.num_taken <= 5
            await asyncio.sleep(0)
        finally:
            slots.give(num_taken)

    tasks = []
    for _ in range(500):
        tasks.append(asyncio.create_task(work()))
        if source.random() < 0.5:
            source.choice(tasks).cancel()
        if source.random() < 0.5:
            await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert slots.num_taken == 0
    assert await asyncio.wait_for(slots.take(5), 60) == 5
