"""OutputMerge: the outputs of one or several requests as one stream of batches.

In: requests and a Backend. Out: everything that has arrived, in order, or an empty batch when
nothing came for a while. Leaving the context stops every request. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from dataclasses import replace

from headrace.core.backend import Backend
from headrace.core.config import ServerConfig
from headrace.core.errors import RequestError
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.server.error_responses import worded

# A reader this far behind makes its own requests wait, and nobody else's.
_MAX_WAITING_OUTPUTS = 64

Batch = list[tuple[int, RequestOutput]]
Batches = AsyncIterator[Batch]


class OutputMerge:
    """Reads streams at once; batches hold (position of the request, output).

    Every token of every answer comes through here: no lock, no queue, one timer for all waits.
    """

    def __init__(self, streams: Sequence[AsyncGenerator[RequestOutput, None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[int, RequestOutput | Exception | None]] = deque()
        # Of whoever waits for the next output, until when, and what wakes it then.
        self._arrived: asyncio.Future[None] | None = None
        self._until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._has_room = asyncio.Event()
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
            if not self._waiting:
                await self._wait(timeout_s)
            if not self._waiting:
                return []
            batch = self._take()
            if batch:
                return batch
        if self._error is not None:
            raise self._error
        return None

    async def _wait(self, timeout_s: float) -> None:
        """Return when something has come, or after the time."""
        self._until_s = self._loop.time() + timeout_s
        self._arrived = self._loop.create_future()
        if self._timer is not None and self._timer.when() > self._until_s:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(self._until_s, self._time_is_up)
        try:
            await self._arrived
        finally:
            self._arrived = None

    def _time_is_up(self) -> None:
        """Wake who waits so long, or look again when it has."""
        self._timer = None
        if self._arrived is None:
            return
        if self._loop.time() < self._until_s:
            self._timer = self._loop.call_at(self._until_s, self._time_is_up)
        else:
            self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    def _take(self) -> Batch:
        batch: Batch = []
        for index, item in self._waiting:
            if isinstance(item, RequestOutput):
                batch.append((index, item))
            elif item is None:
                self._num_open -= 1
            elif self._error is None:
                self._error = item
        self._waiting.clear()
        self._has_room.set()
        return batch

    def _add(self, index: int, item: RequestOutput | Exception | None) -> None:
        self._waiting.append((index, item))
        self._wake()

    async def _read(self, index: int, stream: AsyncGenerator[RequestOutput, None]) -> None:
        try:
            async for output in stream:
                self._add(index, output)
                while len(self._waiting) >= _MAX_WAITING_OUTPUTS:
                    self._has_room.clear()
                    await self._has_room.wait()
        except Exception as error:
            self._add(index, error)
        else:
            self._add(index, None)

    async def close(self) -> None:
        """Stop reading; the streams may be closed after that."""
        if self._timer is not None:
            self._timer.cancel()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)


@asynccontextmanager
async def open_batches(
    backend: Backend,
    requests: Sequence[GenerateRequest],
    config: ServerConfig,
    names: Sequence[str] = (),
) -> AsyncIterator[Batches]:
    """Admit every request or none, and stop whatever still runs on leaving.

    `names`: what the caller calls the prompt of each request, where they have names.
    Raises: what the backend raises; RequestError when the answers take too long.
    """
    if len(requests) > 1:
        num_answers = sum(request.sampling.n for request in requests)
        requests = [replace(request, num_call_answers=num_answers) for request in requests]
    async with AsyncExitStack() as stack:
        streams = []
        for index, request in enumerate(requests):
            with worded({"prompt": names[index]}) if names else nullcontext():
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
