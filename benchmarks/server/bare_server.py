"""The least that answers: frames of a scripted stream, written to whoever sends a request.

It reads no more of a request than its end and its `max_tokens`. What its client sees is the price
of the connection, of the system and of the client itself, beside which `overhead.py` puts
headrace's server. Prints its address; ends when it is told to.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def piece(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-" + "0" * 32,
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "script",
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def word(finish_reason: str | None = None) -> bytes:
    return frame([{"index": 0, "delta": {"content": " word"}, "finish_reason": finish_reason}])


def make_handler(pace_s: float) -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-len"))
        body = json.loads(await reader.readexactly(int(next(lengths).split(b":")[1])))
        num_tokens, begin_s = body["max_tokens"], time.perf_counter()
        for step in range(num_tokens):
            await asyncio.sleep(max(0.0, begin_s + step * pace_s - time.perf_counter()))
            data = piece(word("length" if step == num_tokens - 1 else None))
            writer.write(data if step else HEAD + data)
        usage = {"prompt_tokens": 16, "completion_tokens": num_tokens, "total_tokens": 16}
        writer.write(piece(frame([], usage) + b"data: [DONE]\n\n") + b"0\r\n\r\n")
        writer.close()

    return answer


async def serve(pace_s: float) -> None:
    server = await asyncio.start_server(make_handler(pace_s), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
