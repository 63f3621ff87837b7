"""PassingStream: outputs of a request on their way through whoever stands in between.

In: the stream that gives them. Out: the same outputs. Whoever builds on it sees what goes by, or
learns that it is over. A class and no generator function: that one runs no `finally` where nobody
has begun to read it, and adds a frame to each output.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from types import TracebackType
from typing import Any

from headrace.core.output import RequestOutput


class PassingStream(AsyncGenerator[RequestOutput, None]):
    """Passes on what `outputs` gives."""

    def __init__(self, outputs: AsyncGenerator[RequestOutput, None]) -> None:
        self._outputs = outputs

    def __anext__(self) -> Coroutine[Any, Any, RequestOutput]:
        return self.asend(None)

    async def asend(self, value: None) -> RequestOutput:
        """See AsyncGenerator."""
        try:
            return await self._outputs.asend(None)
        except BaseException:
            self._leave()
            raise

    async def athrow(
        self,
        kind: Any,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> RequestOutput:
        """See AsyncGenerator."""
        self._leave()
        return await self._outputs.athrow(value if isinstance(value, BaseException) else kind)

    async def aclose(self) -> None:
        """See AsyncGenerator."""
        try:
            await self._outputs.aclose()
        finally:
            self._leave()

    def _leave(self) -> None:
        """It is over, however it ended. May be called several times."""
