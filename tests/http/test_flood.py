"""Many requests at once through the real app, scheduler and cache: fairness, and nothing left."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections.abc import Mapping

import pytest

from fakes.asgi_client import Reply, exchange
from fakes.running_engine import Running, running_engine, script
from fakes.served_app import FixedMetrics
from headrace.core.config import ServerConfig
from headrace.core.step import RequestProgress, StepReport, StepStats
from headrace.core.stores import ApiKey
from headrace.economics.accounts import Accounts
from headrace.server.app import HeadraceApp
from headrace.server.services import Services
from headrace.store.key_ring import StoredKey, StoredKeys, hash_secret

COMPLETIONS = "/v1/completions"
NUM_FLOOD, NUM_AT_ONCE = 40, 50


def two_tenants() -> Accounts:
    """The secret of a tenant is hr_ and its name."""
    keys = [ApiKey(id=t, name=t, tenant=t, scopes=("inference",)) for t in ("flood", "guest")]
    return Accounts(keys=StoredKeys([StoredKey(k, hash_secret(f"hr_{k.id}")) for k in keys]))


def app_of(running: Running, accounts: Accounts | None = None) -> HeadraceApp:
    services = Services(
        running.backend, ServerConfig(), FixedMetrics(), "9", accounts=accounts or Accounts()
    )
    return HeadraceApp(services)


def body_of(**fields: object) -> bytes:
    return json.dumps({"model": "tiny", "prompt": "abc", "max_tokens": 8} | fields).encode()


def headers_of(tenant: str | None = None) -> Mapping[str, str]:
    key = {"authorization": f"Bearer hr_{tenant}"} if tenant else {}
    return {"content-type": "application/json", **key}


async def test_a_flood_of_one_tenant_does_not_hold_up_another() -> None:
    ends: list[str] = []
    async with running_engine(script("x"), max_num_seqs=2) as running:
        app = app_of(running, two_tenants())

        async def ask(tenant: str) -> Reply:
            reply = await exchange(app, "POST", COMPLETIONS, body_of(), headers_of(tenant))
            ends.append(tenant)
            return reply

        running.runner.gate.clear()
        flood = [asyncio.create_task(ask("flood")) for _ in range(NUM_FLOOD)]
        await running.until(lambda: running.backend._output.num_unfinished == NUM_FLOOD)
        guest = asyncio.create_task(ask("guest"))
        await running.until(lambda: running.backend._output.num_unfinished == NUM_FLOOD + 1)
        running.runner.gate.set()
        replies = await asyncio.gather(guest, *flood)
        await running.until_idle()
    assert {reply.status for reply in replies} == {200}
    # Two of the flood run already; a place that becomes free is the guest's.
    assert ends.index("guest") < 8


@pytest.mark.parametrize("num_aborts", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_aborts_leave_nothing_behind(num_aborts: int) -> None:
    source, num_objects = random.Random(5), 0
    async with running_engine(script("abcdefgh"), max_num_seqs=8) as running:
        app, num_tasks = app_of(running), len(asyncio.all_tasks())

        async def leave() -> None:
            stream, pieces = source.random() < 0.8, source.randrange(6)
            body = body_of(stream=stream, n=source.choice((1, 1, 3)), max_tokens=32)
            await exchange(app, "POST", COMPLETIONS, body, headers_of(), leave_after=pieces)

        for batch in range(num_aborts // NUM_AT_ONCE):
            await asyncio.gather(*(leave() for _ in range(NUM_AT_ONCE)))
            running.runner.steps.clear()  # the fake's own notes
            if batch == 10:
                await running.until_idle()
                gc.collect()
                num_objects = len(gc.get_objects())
        await running.until_idle()
        assert len(asyncio.all_tasks()) == num_tasks
        assert app.services.lifetime.num_running == 0
        gc.collect()
        assert len(gc.get_objects()) - num_objects < 2000


async def test_a_client_that_would_give_up_in_the_queue_is_refused_at_once() -> None:
    async with running_engine(script("x"), max_num_seqs=1) as running:
        app = app_of(running)
        stats = StepStats(num_running=1, num_waiting=9)
        for at_s in range(0, 60, 6):  # one start in six seconds, nine before us
            rows = (RequestProgress(f"r{at_s}", scheduled_at_s=float(at_s)),)
            running.backend._room.observe(StepReport(at_s, rows, stats, ended_at_s=at_s + 1.0))

        async def status(name: str, seconds: str) -> tuple[int, str]:
            headers = {**headers_of(), name: seconds}
            reply = await exchange(app, "POST", COMPLETIONS, body_of(), headers)
            return reply.status, reply.headers.get("retry-after", "")

        refused, retry_after = await status("x-stainless-read-timeout", "20")
        assert refused == 429
        assert 20 < int(retry_after) < 60
        assert (await status("x-stainless-timeout", "20"))[0] == 429
        assert (await status("x-stainless-read-timeout", "600"))[0] == 200
        # The answer ended with nobody in the queue.
        assert (await status("x-stainless-read-timeout", "0.001"))[0] == 200
