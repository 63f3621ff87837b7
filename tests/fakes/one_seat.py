"""A backend with one seat: answers run one after the other, however many are asked for at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from fakes.fake_backend import FakeBackend
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest


class OneSeat(FakeBackend):
    """A FakeBackend whose `generate` waits until the answer before has ended."""

    _seat: asyncio.Lock | None = None

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        self._seat = self._seat or asyncio.Lock()
        await self._seat.acquire()
        return self._alone(await super().generate(request), self._seat)

    async def _alone(
        self, stream: AsyncGenerator[RequestOutput, None], seat: asyncio.Lock
    ) -> AsyncGenerator[RequestOutput, None]:
        try:
            async for output in stream:
                await asyncio.sleep(0)
                yield output
        finally:
            seat.release()
