"""A small HTTP server with scripted behaviour, for clients of OpenAI's API.

It is a real socket that speaks real bytes: whole answers, statuses, streams that stall, break or
end early. `script` decides per request; `seen` keeps what was asked. Prompts cost a token per word
and `OVERHEAD_TOKENS`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

OVERHEAD_TOKENS = 10
Script = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request and the way to answer it."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self, status: str = "200 OK", kind: str = "text/event-stream") -> None:
        """Headers of a body in chunks."""
        await self.send(
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, value: object) -> None:
        await self.chunk(b"data: %b\n\n" % (value if isinstance(value, bytes) else dump(value)))

    async def reply(self, status: str, body: bytes, kind: str = "application/json") -> None:
        """A whole answer."""
        await self.head(status, kind)
        await self.chunk(body)
        await self.chunk(b"")

    @property
    def num_prompt_tokens(self) -> int:
        messages = self.body.get("messages") or [{"content": self.body.get("prompt", "")}]
        return OVERHEAD_TOKENS + sum(len(message["content"].split()) for message in messages)

    def usage(self, num_tokens: int) -> dict[str, Any]:
        return {
            "choices": [],
            "usage": {"prompt_tokens": self.num_prompt_tokens, "completion_tokens": num_tokens},
        }


def dump(value: object) -> bytes:
    return json.dumps(value).encode()


def text(content: str, finish_reason: str | None = None) -> dict[str, Any]:
    """A chunk of a chat."""
    return {
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}]
    }


async def answer(exchange: Exchange, gap_s: float = 0.0) -> None:
    """A well-behaved answer of `max_tokens` tokens, `gap_s` before each."""
    num_tokens = exchange.body["max_tokens"]
    await exchange.head()
    await exchange.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    for number in range(num_tokens):
        await asyncio.sleep(gap_s)
        await exchange.event(text("word ", "length" if number == num_tokens - 1 else None))
    await exchange.event(exchange.usage(num_tokens))
    await exchange.event(b"[DONE]")
    await exchange.chunk(b"")


@dataclass
class CompletionServer:
    """Where it listens and what it was asked."""

    url: str = ""
    script: Script = answer
    models: tuple[str, ...] = ("tiny",)
    seen: list[Exchange] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *lines = head.strip().split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in lines)
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            exchange = Exchange(request.split()[1], headers, json.loads(body or b"{}"), writer)
            self.seen.append(exchange)
            if exchange.path.endswith("/models"):
                listed = {"data": [{"id": name} for name in self.models]}
                await exchange.reply("200 OK", dump(listed))
            else:
                await self.script(exchange)
        except (OSError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def completion_server(
    script: Script = answer, tls: ssl.SSLContext | None = None
) -> AsyncIterator[CompletionServer]:
    """Listen on a free port until the block ends; running exchanges are cut off then."""
    server = CompletionServer(script=script)
    running: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(server.serve(reader, writer))
        running[task] = writer
        task.add_done_callback(lambda done: done.cancelled() or running.pop(done))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    server.url = f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()
        left = dict(running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        # One that was cancelled before it began has closed nothing.
        for writer in left.values():
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
