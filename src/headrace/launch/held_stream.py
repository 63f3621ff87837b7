"""HeldStream: passes a stream on and tells when it is over, however it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from headrace.core.output import RequestOutput
from headrace.core.passing_stream import PassingStream


class HeldStream(PassingStream):
    """`on_end` is called once."""

    def __init__(
        self, stream: AsyncGenerator[RequestOutput, None], on_end: Callable[[], None]
    ) -> None:
        super().__init__(stream)
        self._on_end = on_end
        self._is_over = False

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._on_end()
