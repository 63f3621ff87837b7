"""EngineHost: where an engine runs. A thread (engine_thread.py), or a process (supervisor.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from headrace.engine.messages import EngineMessage, EngineReply


class EngineHost(Protocol):
    """Messages in, replies out, whatever is between."""

    def start(self) -> None:
        """Let the engine take messages. Call it once."""
        ...

    def send(self, message: EngineMessage) -> None:
        """Pass a message on without waiting. Any thread may call it.

        Raises: CapacityError when the engine is that far behind.
        """
        ...

    def receive(self) -> Sequence[EngineReply]:
        """Wait for replies. One thread calls it, until it has seen the EngineEnded."""
        ...

    def pause(self) -> str | None:
        """Why no token can move for the moment; None while they can."""
        ...

    def join(self, timeout_s: float) -> None:
        """Wait for the end after a Stop, and let go of what is held."""
        ...
