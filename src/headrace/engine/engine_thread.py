"""EngineThread: an engine in a thread of this process, for scripts and single answers."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread

from headrace.engine.channel import ThreadChannel
from headrace.engine.engine import Engine
from headrace.engine.loop import EngineLoop
from headrace.engine.messages import EngineMessage, EngineReply

MAX_WAITING_REPORTS = 64


class EngineThread:
    """See EngineHost. An error ends the engine for good."""

    def __init__(self, engine: Engine, max_num_requests: int) -> None:
        """`max_num_requests` is the scheduler's limit of unfinished answers."""
        # Each answer sends a Submit, and an Abort when it stops, fails or is left; one Stop.
        self.inbox: ThreadChannel[EngineMessage] = ThreadChannel(4 * max_num_requests + 1)
        self._outbox: ThreadChannel[EngineReply] = ThreadChannel(MAX_WAITING_REPORTS)
        loop = EngineLoop(engine, self.inbox, self._outbox)
        self._thread = Thread(target=loop.run, name="headrace-engine", daemon=True)

    def start(self) -> None:
        """See EngineHost."""
        self._thread.start()

    def send(self, message: EngineMessage) -> None:
        """See EngineHost."""
        self.inbox.send(message)

    def receive(self) -> Sequence[EngineReply]:
        """See EngineHost."""
        return self._outbox.receive(None)

    def pause(self) -> str | None:
        """See EngineHost."""
        return None

    def join(self, timeout_s: float) -> None:
        """See EngineHost."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
