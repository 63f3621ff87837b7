"""A flaky server on a real socket: what it does is scripted per request, and what it was asked is
kept. Scripts are those of `completion_server`, in the order of requests; the last one stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fakes.completion_server import (
    CompletionServer,
    Exchange,
    Script,
    answer,
    completion_server,
    dump,
    text,
)
from headrace.client.upstream import Upstream
from headrace.core.message import Message
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.upstreams import UpstreamConfig

KEY = "sk-secret-0123456789"


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[CompletionServer]:
    """A server that answers the first request by the first script, and so on."""
    left = list(scripts)

    async def script(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    async with completion_server(script) as server:
        yield server


def status(code: str, body: object = None, **headers: str) -> Script:
    """A whole answer with a status."""

    async def run(exchange: Exchange) -> None:
        data = dump(body or {"error": {"message": "no", "type": "t", "param": None, "code": None}})
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {code}\r\nContent-Length: {len(data)}\r\n{lines}\r\n"
        await exchange.send(head.encode() + data)

    return run


async def hang_up(exchange: Exchange) -> None:
    """Nothing at all."""


def cut_after(num_words: int) -> Script:
    """A stream that breaks off."""

    async def run(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for _ in range(num_words):
            await exchange.event(text("word "))

    return run


def stall_after(num_words: int) -> Script:
    """A stream that stands still until its reader leaves."""

    async def run(exchange: Exchange) -> None:
        await cut_after(num_words)(exchange)
        await asyncio.Event().wait()

    return run


async def stall(exchange: Exchange) -> None:
    """Takes the request and says nothing."""
    await asyncio.Event().wait()


def events(*values: object) -> Script:
    """A stream of these events, which ends as streams do."""

    async def run(exchange: Exchange) -> None:
        await exchange.head()
        for value in values:
            await exchange.event(value)
        await exchange.chunk(b"")

    return run


well = answer


def ask(prompt: str = "one two", model: str = "tiny", **fields: Any) -> GenerateRequest:
    """A chat of one message, three tokens long."""
    sampling = fields.pop("sampling", None) or SamplingParams(max_tokens=3)
    messages = fields.pop("messages", (Message("user", prompt),))
    return GenerateRequest(
        request_id="request-1", model=model, messages=messages, sampling=sampling, **fields
    )


async def collect(upstream: Any, request: GenerateRequest | None = None) -> list[RequestOutput]:
    """Every output of an answer."""
    return [output async for output in await upstream.generate(request or ask())]


def words(outputs: Sequence[RequestOutput]) -> str:
    return "".join(delta.text for output in outputs for delta in output.deltas)


class Waits:
    """Stands for sleeping: keeps how long it would have been."""

    def __init__(self) -> None:
        self.waited_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waited_s.append(seconds)


@asynccontextmanager
async def upstream_of(
    server: CompletionServer, waits: Waits | None = None, **settings: Any
) -> AsyncIterator[Upstream]:
    """An Upstream in front of a server, which waits for nobody."""
    config = UpstreamConfig(name="far", url=server.url, models=("tiny",), **settings)
    waits = waits or Waits()
    upstream = Upstream(config, KEY, sleep=waits.sleep, uniform=lambda low, high: high)
    try:
        yield upstream
    finally:
        upstream.close()
