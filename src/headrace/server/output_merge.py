"""OutputMerge: the outputs of one or several requests as one stream of batches.

In: requests and a Backend. Out: everything that has arrived, in order, or an empty batch when
nothing came for a while. Leaving the context stops every request. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from headrace.core.backend import Backend
from headrace.core.config import ServerConfig
from headrace.core.errors import RequestError
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest

# A reader this far behind makes its own requests wait, and nobody else's.
_MAX_WAITING_OUTPUTS = 64

Batch = list[tuple[int, RequestOutput]]
Batches = AsyncIterator[Batch]


class OutputMerge:
    """Reads streams at once; batches hold (position of the request, output)."""

    def __init__(self, streams: Sequence[AsyncGenerator[RequestOutput, None]]) -> None:
        self._queue: asyncio.Queue[tuple[int, RequestOutput | Exception | None]] = asyncio.Queue(
            _MAX_WAITING_OUTPUTS
        )
        self._num_open = len(streams)
        self._error: Exception | None = None
        self._readers = [
            asyncio.create_task(self._read(index, stream)) for index, stream in enumerate(streams)
        ]

    async def next_batch(self, timeout_s: float) -> Batch | None:
        """Everything that waits, at least one output; [] after `timeout_s`; None at the end.

        Raises: what a stream raised, after the outputs before it.
        """
        while self._num_open and self._error is None:
            try:
                async with asyncio.timeout(timeout_s):
                    first = await self._queue.get()
            except TimeoutError:
                return []
            batch = self._take(first)
            if batch:
                return batch
        if self._error is not None:
            raise self._error
        return None

    def _take(self, first: tuple[int, RequestOutput | Exception | None]) -> Batch:
        waiting = [first]
        while not self._queue.empty():
            waiting.append(self._queue.get_nowait())
        batch: Batch = []
        for index, item in waiting:
            if isinstance(item, RequestOutput):
                batch.append((index, item))
            elif item is None:
                self._num_open -= 1
            elif self._error is None:
                self._error = item
        return batch

    async def _read(self, index: int, stream: AsyncGenerator[RequestOutput, None]) -> None:
        try:
            async for output in stream:
                await self._queue.put((index, output))
        except Exception as error:
            await self._queue.put((index, error))
        else:
            await self._queue.put((index, None))

    async def close(self) -> None:
        """Stop reading; the streams may be closed after that."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)


@asynccontextmanager
async def open_batches(
    backend: Backend, requests: Sequence[GenerateRequest], config: ServerConfig
) -> AsyncIterator[Batches]:
    """Admit every request or none, and stop whatever still runs on leaving.

    Raises: what the backend raises; RequestError when the answers take too long.
    """
    async with AsyncExitStack() as stack:
        streams = []
        for request in requests:
            stream = await backend.generate(request)
            streams.append(await stack.enter_async_context(aclosing(stream)))
        merge = OutputMerge(streams)
        stack.push_async_callback(merge.close)
        yield _read_batches(merge, config.heartbeat_s, config.request_timeout_s)


async def _read_batches(merge: OutputMerge, heartbeat_s: float, timeout_s: float) -> Batches:
    """Batches until the end, empty ones as heartbeats."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + timeout_s
    while (left_s := deadline_s - loop.time()) > 0:
        batch = await merge.next_batch(min(heartbeat_s, left_s))
        if batch is None:
            return
        yield batch
    raise RequestError(
        f"The answer was not complete after {timeout_s:g} s, this server's limit "
        "(request_timeout_s). Ask for fewer tokens."
    )
