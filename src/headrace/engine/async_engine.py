"""AsyncEngine: the engine as a Backend.

In: GenerateRequest. Out: streams of RequestOutput. A host runs the steps, a thread makes text of
them. Event loops only wait, so many may use one engine. Everything is bounded: unfinished requests
by the scheduler's limits, channels by those, a slow reader by its own answer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import replace
from threading import Lock, Thread

from headrace.core.activity import ModelActivity
from headrace.core.backend import Health, ModelInfo, ModelText, PauseMode
from headrace.core.clock import Clock
from headrace.core.errors import BackendError, CapacityError, EngineDied, ModelNotFound
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.step import StepReport
from headrace.engine.activity import EngineActivity
from headrace.engine.admission import Admission
from headrace.engine.engine_host import EngineHost
from headrace.engine.given_orders import PAUSED, GivenOrders
from headrace.engine.input_processor import InputProcessor, PreparedRequest
from headrace.engine.messages import (
    Abort,
    AdapterLoaded,
    AdapterUnloaded,
    EngineEnded,
    EngineReply,
    Inspection,
    OrderDone,
    Stop,
    Submit,
)
from headrace.engine.output_processor import OutputProcessor
from headrace.engine.output_stream import Mailbox, OutputStream
from headrace.engine.served_adapters import ServedAdapters
from headrace.engine.stall_watch import Silence
from headrace.engine.stats import EngineStats
from headrace.engine.text_threads import TextThreads
from headrace.engine.tokenizer_text import TokenizerText
from headrace.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

NUM_TEXT_THREADS = 2


class AsyncEngine:
    """Generates for one model. `start` before the first request, `stop` at the end."""

    def __init__(
        self,
        host: EngineHost,
        input_processor: InputProcessor,
        tokenizer: Tokenizer,
        models: Sequence[ModelInfo],
        stats: EngineStats,
        clock: Clock,
        *,
        max_num_requests: int,
        stall_timeout_s: float = 60.0,
    ) -> None:
        """`max_num_requests` is the scheduler's limit of unfinished answers."""
        self._models = tuple(models)
        self._adapters = ServedAdapters(host.send, self._models[0], clock)
        self._orders = GivenOrders(host.send)
        self._input = input_processor
        self._stats = stats
        self._clock = clock
        self._room = Admission(max_num_requests, stats)
        self._activity = EngineActivity(host.send, self._room, clock)
        self._stall_timeout_s = stall_timeout_s
        self._host = host
        self._output = OutputProcessor(tokenizer, stats, self._send_abort)
        self._text_threads = TextThreads(NUM_TEXT_THREADS)
        self._output_thread: Thread | None = None
        self._text = TokenizerText(tokenizer, input_processor, self._text_threads)
        self._serial = itertools.count()
        # Between the check for room and taking it; between the last answer and the engine's end.
        self._admission = Lock()
        self._state: str = "starting"
        self._detail = ""
        self._silence = Silence(clock, stall_timeout_s / 2)

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend. The model itself, then its adapters."""
        return (*self._models, *self._adapters.infos())

    def text(self, model: str) -> ModelText:
        """See core.backend.Backend."""
        self._adapters.sha256(model)
        return self._text

    async def load_adapter(
        self, name: str, path: str, *, base: str | None = None, is_replacing: bool = False
    ) -> ModelInfo:
        """See core.backend.AdapterControl."""
        if base is not None and base != self._models[0].name:
            raise ModelNotFound(base, [self._models[0].name])
        return await self._adapters.load(name, path, is_replacing=is_replacing)

    async def unload_adapter(self, name: str) -> None:
        """See core.backend.AdapterControl."""
        await self._adapters.unload(name)

    def pause(self, mode: PauseMode, *, clear_cache: bool = True) -> Awaitable[bool]:
        """See core.backend.EngineControl. What is to be awaited is how it ends."""
        keeps_running = mode == "keep"
        done = self._orders.pause(keeps_running, clear_cache and not keeps_running)
        if mode == "abort":
            self._output.abort_all(
                CapacityError(
                    "The engine was paused (POST /pause) while it ran this request. Send it again.",
                    is_full=False,
                )
            )
        return done

    def resume(self) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        self._silence.end()
        return self._orders.resume()

    def reset_prefix_cache(self, *, reset_running: bool = False) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        return self._orders.reset_prefixes(reset_running)

    async def start(self) -> None:
        """Start the threads. Calling it twice is harmless."""
        if self._state != "starting":
            return
        self._state = "ready"
        self._host.start()
        self._output_thread = Thread(target=self._run_output, name="headrace-output", daemon=True)
        self._output_thread.start()

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those that run; False when some are left."""
        if self._state == "ready":
            self._state = "draining"
        deadline_s = time.monotonic() + timeout_s
        while self._output.num_unfinished and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        return not self._output.num_unfinished

    async def stop(self, timeout_s: float = 10.0) -> None:
        """End what runs with a BackendError and end the threads. Calling it twice is harmless."""
        if self._state == "starting":
            self._state = "dead"
        if self._state != "dead":
            self._state = "draining"
            self._host.send(Stop())
        if self._output_thread is not None:
            await asyncio.to_thread(self._output_thread.join, timeout_s)
        await asyncio.to_thread(self._host.join, timeout_s)
        self._text_threads.end()

    def health(self) -> Health:
        """Say whether tokens can move. Stalled: requests run and no step ends."""
        if self._state == "dead":
            return Health("dead", self._detail or "The engine was stopped.")
        pause = self._host.pause()
        if pause is not None and self._state == "ready":
            return Health("stalled", pause, is_recovering=True)
        if self._orders.is_paused and self._state == "ready":
            return Health("paused", PAUSED, is_recovering=True)
        silent_s = self._silence.seen_s()
        if self._output.num_unfinished and silent_s > self._stall_timeout_s:
            waiting = f"Unfinished requests: {self._output.num_unfinished}"
            detail = f"{waiting}; no step ended for {silent_s:.0f} s."
            # Steps wait for an adapter that is read and packed.
            return Health("stalled", detail, is_recovering=self._adapters.are_loading)
        if self._state == "starting":
            return Health("starting", "The engine was not started.")
        return Health("draining" if self._state == "draining" else "ready")

    async def activity(self) -> list[ModelActivity]:
        """See core.activity.Inspectable. A scheduler that is away is not waited for."""
        health = self.health()
        is_there = health.status in ("ready", "paused", "draining")
        answers = await self._activity.ask() if is_there else None
        return [
            ModelActivity(
                model=self._models[0].name,
                health=health,
                is_current=answers is not None,
                requests=self._activity.rows(self._output.opened(), answers),
            )
        ]

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend. The stream works in the event loop that called."""
        arrived_at_s = self._clock.monotonic_s()
        # An unknown name waits for nothing; what a known one stands for is asked when it is sent.
        self._adapters.sha256(request.model)
        self._room.check_size(request.sampling.n, request.num_call_answers)
        self._check_room(request.sampling.n, request.patience_s)
        unique_id = f"{request.request_id}-{next(self._serial)}"
        with self._activity.preparing(unique_id, request):
            prepared = await self._text_threads.run(self._input.prepare, request, unique_id)
        adapter = self._adapters.sha256(request.model)
        if adapter:
            specs = tuple(replace(spec, adapter=adapter) for spec in prepared.specs)
            prepared = replace(prepared, specs=specs)
        return self._submit(prepared, Mailbox(asyncio.get_running_loop()), arrived_at_s)

    def _submit(
        self, prepared: PreparedRequest, mailbox: Mailbox, arrived_at_s: float
    ) -> OutputStream:
        with self._admission:
            self._check_room(len(prepared.specs), None)
            if not self._output.num_unfinished:
                self._silence.end()
            opened = self._output.open(prepared, mailbox, arrived_at_s)
        stream = OutputStream(mailbox, lambda: self._output.close(opened))
        for spec in prepared.specs:
            self._host.send(Submit(spec))
        return stream

    def _check_room(self, num_answers: int, patience_s: float | None) -> None:
        """Refuse what cannot be taken now. Raises: CapacityError, EngineDied."""
        if self._state == "dead":
            raise EngineDied(self._detail or "The engine was stopped.", retryable=True)
        if self._state != "ready":
            reason = "is not started" if self._state == "starting" else "is shutting down"
            raise CapacityError(f"The engine {reason}. Try again later.", is_full=False)
        self._room.check(self._output.num_unfinished, num_answers, patience_s)

    def _send_abort(self, answer_id: str) -> None:
        try:
            self._host.send(Abort(answer_id))
        except CapacityError:
            # Nobody reads a dead engine's inbox; a live one is never this far behind.
            if self._state != "dead":
                raise

    def _run_output(self) -> None:
        """Body of the output thread: serve until the engine's last reply."""
        try:
            while not self._take(self._host.receive()):
                pass
        except Exception as failure:
            logger.exception("The engine cannot be heard any more.")
            self._end(f"{type(failure).__name__}: {failure}")
        finally:
            self._stats.observe_end()

    def _take(self, replies: Sequence[EngineReply]) -> bool:
        """Pass replies on; True after the last."""
        for reply in replies:
            self._silence.end()
            if isinstance(reply, EngineEnded):
                self._end(reply.error)
                return True
            if isinstance(reply, Inspection):
                self._activity.take(reply)
            elif isinstance(reply, AdapterLoaded | AdapterUnloaded):
                self._adapters.take(reply)
            elif isinstance(reply, OrderDone):
                self._orders.take(reply)
            elif self._state != "dead":
                self._apply(reply)
        return False

    def _apply(self, report: StepReport) -> None:
        try:
            self._room.observe(report)
            self._output.apply(report)
        except Exception as failure:
            logger.exception("The output side failed.")
            self._end(f"{type(failure).__name__}: {failure}")
            self._host.send(Stop())

    def _end(self, reason: str | None) -> None:
        """Fail every stream. The first end counts."""
        with self._admission:
            if self._state == "dead":
                return
            self._state = "dead"
            if reason is None:
                error: BackendError = BackendError("The engine was stopped.", retryable=True)
            else:
                self._detail = f"The engine ended with an error: {reason}"
                error = EngineDied(self._detail, retryable=True)
            self._output.fail_all(error)
            self._adapters.end(error)
            self._orders.end(None if reason is None else error)
