"""Responses in the background: they run on after their call was answered, whoever reads them.

Owns the runs of this server, each with its task and the log of its events. In: events as they come.
Out: the log, to any number of readers, and the response in the store once it has ended. Leases of
what runs are prolonged here; what somebody else ended meanwhile is stopped.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing

from headrace.core.errors import HeadraceError
from headrace.core.responses import RUNNING
from headrace.economics.metered import Metered
from headrace.server.call_log import call_fields
from headrace.server.error_responses import ErrorReply, describe_error, is_our_fault
from headrace.server.kept_responses import KeptResponses
from headrace.server.lifetime import Lifetime, stopping_error
from headrace.server.openai_payloads import encode
from headrace.server.response_events import Events, ResponseWriter
from headrace.server.response_payloads import Event
from headrace.server.sse import DONE, HEARTBEAT, frame

# A lease lasts several of them.
TEND_EVERY_S = 5.0
# What could not be written for so long is given up.
MAX_UNWRITTEN_S = 900.0
_END_S = 5.0

_log = logging.getLogger(__name__)

Forget = Callable[["Run"], None]


class ResponseRuns:
    """The runs of this server. `end` it when the server stops."""

    def __init__(self, tend_every_s: float = TEND_EVERY_S) -> None:
        self._runs: dict[str, Run] = {}
        self.tend_every_s = tend_every_s
        self._tending: asyncio.Task[None] | None = None

    def find(self, tenant: str, response_id: str) -> Run | None:
        """A run that goes on, or whose end is not yet in the store."""
        run = self._runs.get(response_id)
        return run if run is not None and run.tenant == tenant else None

    def start(self, run: Run, events: AsyncGenerator[Events, None], lifetime: Lifetime) -> None:
        """Let a run go on by itself; it closes its meter."""
        self._runs[run.id] = run
        run.start(events, lifetime, self._forget)
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tend())

    async def end(self, lifetime: Lifetime) -> None:
        """Stop every run and let it write that it has failed."""
        lifetime.close()
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=_END_S)
        if self._tending is not None:
            self._tending.cancel()

    def forget(self, tenant: str, response_id: str) -> None:
        """Drop a run that was deleted."""
        if self.find(tenant, response_id) is not None:
            del self._runs[response_id]

    def _forget(self, run: Run) -> None:
        if run.is_written:
            self._runs.pop(run.id, None)

    async def _tend(self) -> None:
        is_failing = False
        while self._runs:
            await asyncio.sleep(self.tend_every_s)
            try:
                await self._renew()
                await self._write_again()
                is_failing = False
            except Exception as error:  # leases hang on this task: nothing but their end ends it
                if not is_failing:
                    trace = None if isinstance(error, HeadraceError) else error
                    said = "Responses in the background cannot be written: %s"
                    _log.error(said, error, exc_info=trace)
                is_failing = True

    async def _renew(self) -> None:
        """Raises: StoreError."""
        running = [run for run in self._runs.values() if run.is_running]
        if not running:
            return
        ids = [run.id for run in running]
        left = await running[0].kept.ask(lambda store: store.renew(ids))
        for run in running:
            if run.id not in left:
                run.cancel()

    async def _write_again(self) -> None:
        for run in [run for run in self._runs.values() if run.has_ended]:
            await run.write()
            if run.is_written or run.ended_for_s > MAX_UNWRITTEN_S:
                self._runs.pop(run.id, None)


class Run:
    """One response in the background. Frame i of its log has the sequence number i."""

    def __init__(
        self,
        tenant: str,
        request_id: str,
        writer: ResponseWriter,
        meter: Metered,
        kept: KeptResponses,
        keeps_log: bool,
    ) -> None:
        self.id, self.tenant = writer.body.id, tenant
        self.writer, self.kept, self.keeps_log = writer, kept, keeps_log
        self.task: asyncio.Task[None] | None = None
        self.is_running, self.is_written = True, False
        self._request_id, self._meter = request_id, meter
        self._frames: list[bytes] = []
        self._last: list[bytes] = []
        self._over = asyncio.Event()
        self._changed = asyncio.Event()
        self._ended_at_s = 0.0

    @property
    def has_ended(self) -> bool:
        return self._over.is_set()

    @property
    def ended_for_s(self) -> float:
        return asyncio.get_running_loop().time() - self._ended_at_s

    def start(
        self, events: AsyncGenerator[Events, None], lifetime: Lifetime, forget: Forget
    ) -> None:
        """Go on in a task of its own."""
        self.task = asyncio.create_task(self._work(events, lifetime, forget))
        tracked = ExitStack()
        tracked.enter_context(lifetime.track(self.task))
        self.task.add_done_callback(lambda _: tracked.close())

    def cancel(self) -> None:
        """Stop it, unless it is ending anyway."""
        if self.is_running and self.task is not None:
            self.task.cancel()

    async def wait_for_end(self) -> None:
        """Return when it has ended, and is in the store if that is possible."""
        await self._over.wait()

    def add(self, events: Events) -> None:
        """Put events into the log, if it will be read."""
        if self.keeps_log:
            self._append([make_frame(event) for event in events])

    def frames(self, begin: int) -> list[bytes]:
        """The log from an event on, as far as it is."""
        return self._frames[begin:]

    def next_change(self) -> asyncio.Event:
        """Set when the log grows or ends; ask for it before the log."""
        return self._changed

    def fail(self, error: ErrorReply) -> list[bytes]:
        """End with an error, if it runs. Returns the last frames that are not in the log yet."""
        if not self._last:
            self._last = self._make_last(self.writer.fail(error))
        return [] if self.has_ended else self._last

    async def write(self) -> None:
        """Bring the store to what is so now. Raises: StoreError."""
        body, status = encode(self.writer.snapshot()), self.writer.status
        is_over, log = status not in RUNNING, None
        if self.keeps_log and is_over:
            log = zlib.compress(b"".join((*self._frames, *self._last)))
        await self.kept.ask(lambda store: store.update(self.id, status, body, log))
        self.is_written = is_over

    async def _work(
        self, events: AsyncGenerator[Events, None], lifetime: Lifetime, forget: Forget
    ) -> None:
        try:
            await self._collect(events, lifetime)
            self.is_running = False
            row = self._meter.close(200, False)
            _log.info("response %s ended", self.id, extra={"fields": call_fields(row)})
            await self._try_to_write()
        finally:
            self._end()
            forget(self)

    async def _collect(self, events: AsyncGenerator[Events, None], lifetime: Lifetime) -> None:
        """Take events until the answer ends, however it does."""
        is_queued = True
        try:
            async with aclosing(events):
                async for new in events:
                    self.add(new)
                    if is_queued and self.writer.status == "in_progress":
                        is_queued = False
                        await self._try_to_write()
            self._last = self._make_last([])
        except asyncio.CancelledError:
            if lifetime.is_closing:
                self._meter.note_error(stopping_error())
                self.fail(describe_error(stopping_error(), self._request_id))
            else:
                self._last = self._make_last(self.writer.cancel())
        except Exception as error:
            self._meter.note_error(error)
            if is_our_fault(error):
                _log.exception("request %s failed in the background", self._request_id)
            self.fail(describe_error(error, self._request_id))

    def _make_last(self, events: Events) -> list[bytes]:
        """The end of the log; a response that had ended before has only its last event left."""
        return [make_frame(event) for event in events or self.writer.final()]

    async def _try_to_write(self) -> None:
        """A response that cannot be written stays in memory, and is written later."""
        try:
            await self.write()
        except HeadraceError as error:
            _log.error("A response in the background cannot be written yet: %s", error)

    def _end(self) -> None:
        """Show the last events: what they say is in the store now."""
        self._ended_at_s = asyncio.get_running_loop().time()
        self._over.set()
        self._append(self._last)

    def _append(self, frames: list[bytes]) -> None:
        self._frames += frames
        self._changed.set()
        self._changed = asyncio.Event()


class Reader:
    """Reads the log of a run from an event on, as it grows."""

    def __init__(self, run: Run, begin: int, heartbeat_s: float) -> None:
        self._run, self._at, self._heartbeat_s = run, begin, heartbeat_s

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Frames to the end of the run; comment lines while there is nothing new."""
        run = self._run
        while True:
            is_over, changed, data = run.has_ended, run.next_change(), self._take()
            if is_over:
                yield data + DONE
                return
            if data:
                yield data
                continue
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await changed.wait()
            except TimeoutError:
                yield HEARTBEAT

    def last_words(self, error: ErrorReply) -> bytes:
        """What a reader gets when the server stops."""
        return self._take() + b"".join(self._run.fail(error)) + DONE

    def _take(self) -> bytes:
        new = self._run.frames(self._at)
        self._at += len(new)
        return b"".join(new)


def make_frame(event: Event) -> bytes:
    """An event with its name."""
    return b"event: " + event.type.encode() + b"\n" + frame(encode(event))


def make_frames(events: Events) -> bytes:
    return b"".join(make_frame(event) for event in events)


def replay(log: bytes, begin: int) -> bytes:
    """The frames of a stored log from an event on, and the end of the stream."""
    frames = zlib.decompress(log).split(b"\n\n")[:-1]
    return b"".join(data + b"\n\n" for data in frames[begin:]) + DONE
