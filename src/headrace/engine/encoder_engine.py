"""EncoderEngine: an encoder as a Backend. What waits when a pass ends goes into the next one.

In: GenerateRequest with `pooling`. Out: streams of one RequestOutput with a vector. One thread runs
the passes; texts are tokenized in another. No request waits for others to come: passes are as large
as the load makes them. Bounded by `max_waiting_requests`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from threading import Event, Lock, Thread

from headrace.core.activity import ModelActivity
from headrace.core.backend import Health, ModelInfo, ModelText, PauseMode
from headrace.core.clock import Clock
from headrace.core.engine_config import QueuePolicy
from headrace.core.errors import (
    BackendError,
    CapacityError,
    EngineDied,
    HeadraceError,
    InvalidParameter,
    ModelNotFound,
    RequestError,
    TooManyAnswers,
    UnsupportedFormat,
)
from headrace.core.output import RequestOutput, RequestTimes
from headrace.core.request import GenerateRequest, Pooling
from headrace.core.usage import Usage
from headrace.engine.encoder_jobs import EncoderJob, Result, deliver, describe
from headrace.engine.encoder_model import EncoderInput, EncoderModel
from headrace.engine.encoder_queue import EncoderQueue
from headrace.engine.encoder_stats import EncoderStats
from headrace.engine.encoder_text import EncoderText
from headrace.engine.given_orders import PAUSED
from headrace.engine.text_threads import TextThreads
from headrace.executor.encoder_runner import NOT_NUMBERS, EncoderSequence
from headrace.executor.pooling_sums import is_finite

logger = logging.getLogger(__name__)

_STOPPED = "The engine was stopped."
_DOES = {
    "embed": ("makes vectors of texts", "/v1/embeddings"),
    "classify": ("classifies texts", "/classify, /score or /rerank"),
}


class EncoderEngine:
    """Answers with vectors for one model. `start` before the first request, `stop` at the end."""

    def __init__(
        self,
        model: EncoderModel,
        info: ModelInfo,
        clock: Clock,
        stats: EncoderStats,
        *,
        max_waiting_requests: int,
        policy: QueuePolicy = "fair",
    ) -> None:
        self._model, self._info, self._clock = model, info, clock
        self._stats, self._max_waiting = stats, max_waiting_requests
        self._waiting = EncoderQueue(policy)
        self._inbox: queue.SimpleQueue[EncoderJob | None] = queue.SimpleQueue()
        self._lock = Lock()
        self._num_unfinished = self._num_running = 0
        self._jobs: dict[EncoderJob, None] = {}
        self._state = "starting"
        self._detail = ""
        self._has_ended = False  # nobody reads the inbox any more
        # Clear while it is paused; who holds the lock may begin a pass, or knows that none runs.
        self._may_run = Event()
        self._may_run.set()
        self._passing = Lock()
        self._text_threads = TextThreads(1)
        self._text = EncoderText(model, self._text_threads)
        self._thread: Thread | None = None

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend."""
        return (self._info,)

    def text(self, model: str) -> ModelText:
        """See core.backend.Backend."""
        self._check_model(model)
        return self._text

    async def load_adapter(
        self, name: str, path: str, *, base: str | None = None, is_replacing: bool = False
    ) -> ModelInfo:
        """Encoders run none. Raises: UnsupportedFormat."""
        raise UnsupportedFormat(f"{self._info.name} is an encoder, which runs no adapters.")

    async def unload_adapter(self, name: str) -> None:
        """There is none. Raises: ModelNotFound."""
        raise ModelNotFound(name, (self._info.name,))

    def health(self) -> Health:
        """See core.backend.Backend."""
        if self._state == "ready" and not self._may_run.is_set():
            return Health("paused", PAUSED, is_recovering=True)
        if self._state in ("ready", "starting", "draining"):
            return Health(self._state)  # type: ignore[arg-type]
        return Health("dead", self._detail or _STOPPED)

    def pause(self, mode: PauseMode, *, clear_cache: bool = True) -> Awaitable[bool]:
        """See core.backend.EngineControl. There is no cache; a pass that runs is finished."""
        # One that is being stopped has to see its end.
        if self._state != "dead":
            self._may_run.clear()
        if mode == "abort":
            with self._lock:
                jobs = list(self._jobs)
            stopped = (
                "The engine was paused (POST /pause) while it ran this request. Send it again."
            )
            self._leave_room(jobs)
            deliver(jobs, [CapacityError(stopped, is_full=False)] * len(jobs))
        return asyncio.to_thread(self._wait_for_pass)

    async def resume(self) -> bool:
        """See core.backend.EngineControl."""
        self._may_run.set()
        return True

    async def reset_prefix_cache(self, *, reset_running: bool = False) -> bool:
        """See core.backend.EngineControl. There is none, so nothing is found in it."""
        return True

    async def start(self) -> None:
        """Start the thread. Calling it twice is harmless."""
        if self._state != "starting":
            return
        self._state = "ready"
        self._thread = Thread(target=self._run, name="headrace-encoder", daemon=True)
        self._thread.start()

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those that run; False when some are left."""
        if self._state == "ready":
            self._state = "draining"
        deadline_s = time.monotonic() + timeout_s
        while self._num_unfinished and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        return not self._num_unfinished

    async def stop(self) -> None:
        """End what waits with a BackendError, and the thread. Calling it twice is harmless."""
        self._state = "dead"
        self._inbox.put(None)
        self._may_run.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._text_threads.end()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend."""
        arrived_at_s = self._clock.monotonic_s()
        self._check_model(request.model)
        pooling = self._check(request)
        if request.num_call_answers > self._max_waiting:
            raise TooManyAnswers(request.num_call_answers, self._max_waiting)
        self._take_room()
        loop = asyncio.get_running_loop()
        try:
            sequence = await self._text_threads.run(self._tokenize, request)
            job = EncoderJob(request, sequence, pooling, loop.create_future(), loop, arrived_at_s)
            self._submit(job)
        except BaseException:
            with self._lock:
                self._num_unfinished -= 1
            raise
        # However it ends: who has gone needs no place until a pass would have come.
        job.future.add_done_callback(lambda _: self._leave_room([job]))
        return self._stream(job)

    async def activity(self) -> list[ModelActivity]:
        """See core.activity.Inspectable."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            jobs = list(self._jobs)
        is_paused = not self._may_run.is_set()
        requests = [describe(job, now_s, is_paused) for job in jobs]
        return [
            ModelActivity(
                model=self._info.name,
                health=self.health(),
                is_current=True,
                requests=tuple(
                    sorted(requests, key=lambda request: request.phase)
                ),  # running first
            )
        ]

    async def _stream(self, job: EncoderJob) -> AsyncGenerator[RequestOutput, None]:
        vector = await job.future
        token_ids = tuple(job.sequence.token_ids)
        yield RequestOutput(
            request_id=job.request.request_id,
            deltas=(),
            usage=Usage(input_tokens=len(token_ids)),
            is_finished=True,
            prompt_token_ids=token_ids,
            times=RequestTimes(
                queue_s=job.begun_at_s - job.arrived_at_s,
                prefill_s=job.ended_at_s - job.begun_at_s,
                decode_s=0.0,
                prefill_compute_s=job.compute_s,
                decode_compute_s=0.0,
            ),
            vector=vector,
        )

    def _check_model(self, name: str) -> None:
        if name != self._info.name:
            raise ModelNotFound(name, (self._info.name,))

    def _check(self, request: GenerateRequest) -> Pooling:
        """How the request is answered. Raises: RequestError."""
        info = self._info
        is_wanted = request.pooling is not None and request.messages is None
        if not is_wanted or (request.pooling == "classify") != bool(info.labels):
            what, routes = _DOES[info.kind]
            raise RequestError(
                f"{info.name} {what} and does nothing else. Use POST {routes}, or another model.",
                "model",
                "model_not_supported",
            )
        if request.prompt is None:
            raise InvalidParameter("prompt", None, "a text or token ids")
        return request.pooling or info.pooling

    def _tokenize(self, request: GenerateRequest) -> EncoderSequence:
        given: EncoderInput = request.prompt if request.prompt is not None else ""
        if request.second_text is not None:
            if not isinstance(given, str):
                raise InvalidParameter("prompt", given, "a text, where a second one makes a pair")
            given = (given, request.second_text)
        (sequence,) = self._model.tokenize(
            [given],
            add_special_tokens=request.add_special_tokens,
            truncate=request.truncate_prompt_tokens,
        )
        return sequence

    def _submit(self, job: EncoderJob) -> None:
        """Raises: BackendError where the engine was stopped while the text was tokenized."""
        with self._lock:
            if self._has_ended:
                raise BackendError(_STOPPED, retryable=True)
            self._jobs[job] = None
            self._inbox.put(job)
            self._show_queue()

    def _show_queue(self) -> None:
        # Of those that run, some may have gone.
        num_waiting = max(0, len(self._jobs) - self._num_running)
        self._stats.observe_queue(self._num_running, num_waiting)

    def _take_room(self) -> None:
        """Raises: CapacityError, EngineDied."""
        if self._state == "dead":
            raise EngineDied(self._detail or _STOPPED, retryable=True)
        if self._state != "ready":
            reason = "is not started" if self._state == "starting" else "is shutting down"
            raise CapacityError(f"The engine {reason}. Try again later.", is_full=False)
        with self._lock:
            if self._num_unfinished >= self._max_waiting:
                self._stats.count_rejection()
                raise CapacityError(
                    f"{self._num_unfinished} requests wait already. Try again in a moment."
                )
            self._num_unfinished += 1

    def _leave_room(self, jobs: Sequence[EncoderJob]) -> None:
        """Requests have ended. Each leaves once, whoever finds out first."""
        with self._lock:
            for job in jobs:
                if job in self._jobs:
                    del self._jobs[job]
                    self._num_unfinished -= 1
            self._show_queue()

    def _run(self) -> None:
        """Body of the thread: passes until the end."""
        while self._receive():
            if not self._may_run.is_set():
                self._may_run.wait()
                continue  # what has come meanwhile may be more urgent
            with self._passing:
                # It may have been paused, or stopped, since.
                is_wanted = self._may_run.is_set() and self._state != "dead"
                if is_wanted and (jobs := self._waiting.take()):
                    self._run_pass(jobs)
        self._end()

    def _run_pass(self, jobs: Sequence[EncoderJob]) -> None:
        results: Sequence[Result | HeadraceError]
        with self._lock:
            self._num_running = len(jobs)
            self._show_queue()
        try:
            results = self._answer(jobs)
            self._count(jobs)
        except Exception as failure:
            logger.exception("A pass of the encoder failed.")
            results = [BackendError(f"The model failed: {failure}")] * len(jobs)
        self._num_running = 0
        # Places are free before anyone can know that a request has ended and ask again.
        self._leave_room(jobs)
        deliver(jobs, results)

    def _count(self, jobs: Sequence[EncoderJob]) -> None:
        for job in jobs:
            num_tokens, pass_s = len(job.sequence.token_ids), job.ended_at_s - job.begun_at_s
            self._stats.observe_answer(num_tokens, job.begun_at_s - job.arrived_at_s, pass_s)
        self._stats.observe_pass(sum(len(job.sequence.token_ids) for job in jobs))

    def _wait_for_pass(self) -> bool:
        """Wait until none runs that began before a pause; whether it is paused still."""
        with self._passing:
            return self._state == "dead" or not self._may_run.is_set()

    def _receive(self) -> bool:
        """Wait for a job, take all that are there. False at the end."""
        while not self._waiting or not self._inbox.empty():
            job = self._inbox.get()
            if job is None:
                return False
            self._waiting.add(job)
        return True

    def _answer(self, jobs: Sequence[EncoderJob]) -> list[Result | HeadraceError]:
        begun_at_s = self._clock.monotonic_s()
        for job in jobs:
            job.begun_at_s = begun_at_s
        sequences = [job.sequence for job in jobs]
        if self._info.labels:
            rows = self._model.runner.outputs(sequences)
        else:
            rows = self._model.runner.vectors(sequences, [job.pooling for job in jobs])
        ended_at_s = self._clock.monotonic_s()
        token_s = (ended_at_s - begun_at_s) / max(1, sum(len(each.token_ids) for each in sequences))
        for job in jobs:
            job.ended_at_s = ended_at_s
            job.compute_s = len(job.sequence.token_ids) * token_s
        damaged = BackendError(NOT_NUMBERS)
        return [tuple(row) if is_finite(row) else damaged for row in rows.tolist()]

    def _end(self) -> None:
        waiting = self._waiting.clear()
        with self._lock:
            self._has_ended = True
        while not self._inbox.empty():
            job = self._inbox.get()
            if job is not None:
                waiting.append(job)
        ended = BackendError(_STOPPED, retryable=True)
        self._leave_room(waiting)
        deliver(waiting, [ended] * len(waiting))
