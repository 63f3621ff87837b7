"""A router as `serve` makes it, in front of servers on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx

from fakes.served_app import RunningServer, run_server
from headrace.config.routing import make_routing
from headrace.core.backend import Backend
from headrace.core.telemetry import NoMetrics
from headrace.economics.accounts import Accounts
from headrace.economics.prices import PriceBook
from headrace.economics.usage_row import UsageRow
from headrace.launch.prices import tier_prices
from headrace.launch.tiers import Surroundings, open_tiers


class Rows(list[UsageRow]):
    """A ledger in memory."""


@contextmanager
def route(
    settings: Mapping[str, Any], local: Backend | None = None
) -> Iterator[tuple[RunningServer, Rows]]:
    """A server that routes as the settings say, and the rows it writes."""
    config = make_routing(settings)
    rows = Rows()
    accounts = Accounts(ledger=rows, prices=PriceBook([tier_prices(config)]))
    around = Surroundings(accounts)
    router, close = open_tiers(config, local, NoMetrics(), {}, around)
    with run_server(router, accounts=accounts) as server:  # type: ignore[arg-type]
        try:
            yield server, rows
        finally:
            server.call(close)


def far(url: str, **settings: Any) -> dict[str, Any]:
    """An upstream that is asked once."""
    return {"url": url, "max_retries": 0, "idle_timeout_s": 60.0, **settings}


def chat(prompt: str = "one two", model: str = "auto", **fields: Any) -> dict[str, Any]:
    """A body."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **fields}


def tiers(**members: Sequence[Any]) -> dict[str, Any]:
    return {name: {"backends": list(backends)} for name, backends in members.items()}


@asynccontextmanager
async def client_of(server: RunningServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.address, timeout=60) as client:
        yield client


def texts(stream: str) -> str:
    """The text of a stream of chunks."""
    found = ""
    for line in stream.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:]).get("choices", ()):
                found += choice["delta"].get("content") or ""
    return found


async def settled(rows: Rows, count: int) -> Rows:
    """The rows of calls that have ended: they are written a moment after the answer."""
    async with asyncio.timeout(60):
        while len(rows) < count:
            await asyncio.sleep(0.005)
    assert len(rows) == count
    return rows
