"""EngineLoop: inbox -> step -> outbox, in a thread or process of its own, until told to stop.

In: EngineMessage. Out: EngineReply. Without work it is parked on the inbox. An error in a step
ends the loop: the KV cache may be half written, and nothing may be computed from it.
"""

from __future__ import annotations

import logging

from headrace.engine.channel import Sender, ThreadChannel
from headrace.engine.engine import Engine
from headrace.engine.messages import (
    EngineEnded,
    EngineMessage,
    EngineReply,
    Inspect,
    Inspection,
    LoadAdapter,
    PauseEngine,
    ResetPrefixes,
    ResumeEngine,
    Stop,
    UnloadAdapter,
)

logger = logging.getLogger(__name__)


class EngineLoop:
    """Runs an engine between two channels."""

    def __init__(
        self,
        engine: Engine,
        inbox: ThreadChannel[EngineMessage],
        outbox: Sender[EngineReply],
    ) -> None:
        self._engine = engine
        self._inbox = inbox
        self._outbox = outbox

    def run(self) -> None:
        """Serve until a Stop or an error. The last reply is an EngineEnded."""
        error: str | None = None
        try:
            while self._take_messages():
                if self._engine.has_work:
                    self._outbox.send(self._engine.step(), timeout_s=None)
                for unloaded in self._engine.retire_adapters():
                    self._outbox.send(unloaded, timeout_s=None)
                for paused in self._engine.settle_pauses():
                    self._outbox.send(paused, timeout_s=None)
        except Exception as failure:
            logger.exception("The engine ended with an error.")
            error = f"{type(failure).__name__}: {failure}"
        self._outbox.send(EngineEnded(error), timeout_s=None)

    def _take_messages(self) -> bool:
        """Apply what came in, waiting for something when there is nothing to do."""
        for message in self._inbox.receive(0.0 if self._engine.has_work else None):
            if isinstance(message, Stop):
                return False
            if isinstance(message, Inspect):
                answers = self._engine.inspect()
                self._outbox.send(Inspection(message.inspect_id, answers), timeout_s=None)
            elif isinstance(message, PauseEngine | ResumeEngine | ResetPrefixes):
                self._land()
                for done in self._engine.order(message):
                    self._outbox.send(done, timeout_s=None)
            elif isinstance(message, LoadAdapter):
                self._land()
                self._outbox.send(self._engine.load_adapter(message), timeout_s=None)
            elif isinstance(message, UnloadAdapter):
                self._engine.unload_adapter(message)
            else:
                self._engine.apply(message)
        return True

    def _land(self) -> None:
        """Report the step that is on its way, if there is one."""
        report = self._engine.land()
        if report is not None:
            self._outbox.send(report, timeout_s=None)
