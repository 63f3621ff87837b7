"""Supervisor: an EngineHost whose engine is a child process that may die, stall and start again.

In: messages to the engine. Out: its replies, as if it had been one engine all along. Owns the state
of the process: it watches that tokens move, ends a process that stands still, starts the next one
and gives it what was unfinished. Knows nothing of text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event, RLock
from typing import Any

from headrace.core.clock import Clock
from headrace.core.errors import EngineDied, HeadraceError
from headrace.core.frozen import frozen
from headrace.core.step import StepReport
from headrace.core.structured_outputs import StructuredOutputs
from headrace.engine.engine_process import EngineProcess
from headrace.engine.form_checks import FormChecks
from headrace.engine.kept_adapters import KeptAdapters
from headrace.engine.kept_orders import KeptOrders
from headrace.engine.messages import (
    Abort,
    AdapterLoaded,
    AdapterUnloaded,
    CheckForm,
    EngineEnded,
    EngineMessage,
    EngineReady,
    EngineReply,
    FormChecked,
    Inspection,
    LoadAdapter,
    OrderDone,
    PauseEngine,
    ResetPrefixes,
    ResumeEngine,
    StartEngine,
    Stop,
    Submit,
    UnloadAdapter,
)
from headrace.engine.stall_watch import StallWatch
from headrace.engine.unfinished import UnfinishedRequests

logger = logging.getLogger(__name__)

TICK_S = 0.5
STOP_S = 2.0
"""What a process may take to end after a Stop: it has nothing to put in order."""
CALM_S = 60.0
"""An engine that ran this long starts a new count of restarts."""
MAX_BACKOFF_S = 8.0
MIN_START_S = 60.0
"""What a restart may take, or ten times the first start."""

OnRestart = Callable[[str, int], None]
"""Called for every process that is started again: why the one before it ended (died, failed,
stalled), and how many requests go on in it; none in one that did not get ready."""


@frozen
class StartedProcess:
    """An engine process that is ready, how it was started, and how long that took."""

    process: EngineProcess
    order: StartEngine
    ready: EngineReady
    start_s: float

    def same_again(self) -> StartEngine:
        """The order for the next one: the plan must be the same, whatever memory is free then."""
        engine = replace(self.order.engine, memory_bytes=self.ready.total_bytes)
        free_bytes = engine.tensor_parallel_size * self.ready.total_bytes
        return replace(self.order, engine=engine, free_bytes=free_bytes, is_first=False)


class Supervisor:
    """See EngineHost. Restarts are bounded; after the last one the engine has ended."""

    def __init__(
        self, started: StartedProcess, clock: Clock, on_restart: OnRestart | None = None
    ) -> None:
        config = started.order.engine
        self._process = started.process
        self._order = started.same_again()
        self._start_timeout_s = max(MIN_START_S, 10 * started.start_s)
        self._max_restarts = config.max_restarts
        self._on_restart = on_restart
        self._watch = StallWatch(config.stall_timeout_s, config.max_num_batched_tokens)
        self._tick_s = min(TICK_S, config.stall_timeout_s / 4)
        self._requests = UnfinishedRequests(clock)
        self._adapters = KeptAdapters()
        self._orders = KeptOrders()
        self._forms = FormChecks(self._send_if_up)
        # Reentrant: a collected stream sends its abort from wherever the collector runs.
        self._lock = RLock()
        self._is_up = True
        self._stopping = Event()
        self._reason = ""
        self._pause: str | None = None
        self._num_restarts = 0
        # Of them, those since a step has ended: the next one has to wait.
        self._num_fruitless = 0
        self._up_since_s = time.monotonic()

    def start(self) -> None:
        """See EngineHost. The process is ready already."""

    def send(self, message: EngineMessage) -> None:
        """See EngineHost."""
        if isinstance(message, Stop):
            self._stopping.set()
        with self._lock:
            if isinstance(message, Submit):
                self._requests.submit(message, self._is_up)
            elif isinstance(message, Abort):
                self._requests.abort(message)
            elif isinstance(message, UnloadAdapter):
                self._adapters.send(message)
                self._send_unloads()
                return
            elif isinstance(message, LoadAdapter):
                self._adapters.send(message)
            elif isinstance(message, PauseEngine | ResumeEngine | ResetPrefixes):
                self._orders.send(message)
            self._send_if_up(message)

    def check_form(self, form: StructuredOutputs) -> None:
        """Wait until the engine has compiled a form. Raises: InvalidGrammar, BackendError."""
        self._forms.check(form)

    def receive(self) -> Sequence[EngineReply]:
        """See EngineHost. Starts the engine again where it must, and takes its time for it."""
        while True:
            asked_s = time.monotonic()
            try:
                messages = self._process.receive(self._tick_s)
            except EOFError:
                replies = self._recover()
            else:
                replies = self._take(messages)
                if not messages:
                    self._judge_silence(time.monotonic() - asked_s)
            with self._lock:
                ended = self._requests.ended()
            if ended is not None:
                replies.insert(0, ended)
            if replies:
                return replies

    def pause(self) -> str | None:
        """See EngineHost."""
        return self._pause

    def join(self, timeout_s: float) -> None:
        """See EngineHost."""
        self._stopping.set()
        self._forms.end(EngineDied("The engine was stopped.", retryable=True))
        self._process.close(STOP_S if self._is_up else 0.0)

    def _send_if_up(self, message: EngineMessage | CheckForm) -> None:
        with self._lock:
            if self._is_up:
                self._process.send(message)

    def _take(self, messages: Sequence[Any]) -> list[EngineReply]:
        """Sort out what came."""
        replies: list[EngineReply] = []
        if messages:
            self._watch.moved()
        for message in messages:
            if isinstance(message, StepReport):
                self._watch.observe(message.stats)
                self._num_fruitless = 0
                with self._lock:
                    replies.append(self._requests.take(message))
            elif isinstance(message, FormChecked):
                self._forms.take(message)
            elif isinstance(message, Inspection):
                replies.append(message)
            elif isinstance(message, AdapterLoaded | AdapterUnloaded):
                with self._lock:
                    self._adapters.take(message)
                replies.append(message)
            elif isinstance(message, OrderDone):
                with self._lock:
                    self._orders.take(message)
                replies.append(message)
            elif isinstance(message, EngineEnded) and message.error is not None:
                self._reason = message.error  # the process ends next
        with self._lock:
            suspect = self._requests.next_suspect() if self._is_up else None
            if suspect is not None:
                self._process.send(suspect)
            self._send_unloads()
        return replies

    def _send_unloads(self) -> None:
        """Let adapters go whose last requests the engine has; without it they would be refused."""
        if self._is_up:
            for message in self._adapters.unloads(self._requests.unsent_adapters()):
                self._process.send(message)

    def _judge_silence(self, waited_s: float) -> None:
        """Nothing came for a tick: end a process that should have said something."""
        if self._stopping.is_set():
            self._process.end(STOP_S)
        elif not self._must_answer:
            self._watch.moved()
        elif self._watch.is_stalled(
            *(min(waited_s, 2 * self._tick_s), self._process.processor_s()),
            is_loading=self._adapters.are_loading,
        ):
            self._reason = "no step ended in time"
            self._pause = f"The engine stalled: {self._reason}. It is being restarted."
            self._process.end()

    @property
    def _must_answer(self) -> bool:
        """Whether something is to be heard of the engine. A paused one says nothing."""
        works = len(self._requests) and not self._orders.stands_still
        is_asked = len(self._forms) or self._orders.are_open or self._adapters.are_loading
        return bool(works or is_asked)

    def _recover(self) -> list[EngineReply]:
        """The process has ended. Start the next one, and the unfinished requests in it."""
        with self._lock:
            self._is_up = False
        kind = "stalled" if self._pause else "failed" if self._reason else "died"
        self._reason = self._describe_end(kind)
        if time.monotonic() - self._up_since_s > CALM_S:
            self._num_restarts = 0
        started: EngineProcess | None = None
        while started is None:
            if self._stopping.is_set():
                return self._give_up(None)
            if self._num_restarts >= self._max_restarts:
                return self._give_up(self._reason)
            self._num_restarts += 1
            try:
                started = self._restart()
            except (HeadraceError, OSError) as error:
                self._reason = str(error)
                self._tell(kind, 0)
                kind = "died" if isinstance(error, EngineDied) else "failed"
        with self._lock:
            self._process, self._is_up = started, True
            for check in self._forms.start_again():
                started.send(check)
            # Before the requests that run with them.
            for adapter in self._adapters.start_again():
                started.send(adapter)
            for order in self._orders.before_requests():
                started.send(order)
            for request in self._requests.start_again():
                started.send(request)
            for order in self._orders.after_requests():
                started.send(order)
            self._send_unloads()
            failed: list[EngineReply] = [*self._adapters.failed()]
        self._up_since_s, self._reason, self._pause = time.monotonic(), "", None
        self._watch.moved()
        logger.warning("The engine runs again; requests that go on: %d.", len(self._requests))
        self._tell(kind, len(self._requests))
        return failed

    def _tell(self, kind: str, num_resumed: int) -> None:
        if self._on_restart is not None:
            self._on_restart(kind, num_resumed)

    def _describe_end(self, kind: str) -> str:
        end = self._process.close()
        if kind == "died":
            return f"the engine process {end}"
        return self._reason

    def _restart(self) -> EngineProcess:
        """Start a process, later each time without a step.

        Raises: HeadraceError, OSError when it does not get ready.
        """
        count = f"{self._num_restarts} of {self._max_restarts}"
        self._pause = f"The engine ended ({self._reason}) and is being restarted ({count})."
        logger.error("%s", self._pause)
        if self._num_fruitless:
            self._stopping.wait(min(2.0 ** (self._num_fruitless - 2), MAX_BACKOFF_S))
        self._num_fruitless += 1
        process = EngineProcess(self._order)
        try:
            process.wait_ready(self._start_timeout_s, self._stopping)
        except (HeadraceError, OSError):
            process.close()
            raise
        return process

    def _give_up(self, reason: str | None) -> list[EngineReply]:
        """The last reply there is."""
        told = reason or "The engine was stopped."
        self._forms.end(EngineDied(told, retryable=True))
        if reason is not None:
            logger.critical("The engine is not started again: %s", reason)
        return [EngineEnded(reason)]
