"""BatchWorker: looks for batches that are not finished, runs them, stops them, sweeps old files.

In: the storage, and news that there may be something to do. Out: runs, one task for each batch. One
process does this for a storage; another one on the same takes over when it ends. Belongs to the
server's event loop; ends with its drain.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NoReturn

from headrace.core.batches import BatchRecord
from headrace.core.errors import StoreError
from headrace.core.telemetry import BATCHES_UNFINISHED
from headrace.server.batch_call import Route
from headrace.server.batch_run import BatchRun, Reason, Turns
from headrace.server.services import Call, Services, Storage, StorageDoor
from headrace.server.slots import Slots

# While batches run, until the next look at their statuses; and while there are none.
BUSY_S, IDLE_S = 1.0, 5.0
SWEEP_S = 60.0
# A run that failed for a reason nobody foresaw is tried again, but not at once.
FAILED_RUN_S = 60.0
_log = logging.getLogger(__name__)


class BatchWorker:
    """`start` it once the server takes requests, `stop` it before the engine."""

    def __init__(self, services: Services, routes: Mapping[str, Route]) -> None:
        self._services, self._routes = services, routes
        self.slots = Slots(services.config.max_batch_requests)
        self.room = Slots(services.config.most_body_bytes)
        self._reading = asyncio.Lock()
        self._tenants: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._runs: dict[str, tuple[BatchRun, asyncio.Task[None]]] = {}
        self._not_before_s: dict[str, float] = {}
        self._unserved: set[str] = set()
        self._sweep_at_s = 0.0
        self._is_failing = self._is_over = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to look."""
        if self._services.storage is not None:
            door = self._services.storage
            self._tasks = [
                asyncio.create_task(self._run(door)),
                asyncio.create_task(self._stop_with_drain()),
            ]

    async def stop(self) -> None:
        """Stop lines where they are; the next start asks them again. Twice is harmless."""
        self._cancel()
        runs = [task for _, task in self._runs.values()]
        await asyncio.gather(*self._tasks, *runs, return_exceptions=True)

    def _cancel(self) -> None:
        """Once: a second time would cut off what the first one's end still writes."""
        if self._is_over:
            return
        self._is_over = True
        for task in (*self._tasks, *(task for _, task in self._runs.values())):
            task.cancel()

    async def _stop_with_drain(self) -> None:
        """Leave the engine to the requests that still have a client."""
        await self._services.lifetime.draining.wait()
        # Not itself: it is at its end.
        self._tasks.pop()
        self._cancel()

    async def _run(self, door: StorageDoor) -> None:
        news = self._services.batch_news
        while True:
            news.clear()
            try:
                wait_s = await self._look(door)
                self._is_failing = False
            except StoreError as error:
                if not self._is_failing:
                    _log.error("batches wait: %s", error)
                self._is_failing, wait_s = True, IDLE_S
            except Exception:
                # Batches of every tenant hang on this task.
                _log.exception("looking for batches failed and is tried again")
                wait_s = SWEEP_S
            try:
                async with asyncio.timeout(wait_s):
                    await news.wait()
            except TimeoutError:
                continue

    async def _look(self, door: StorageDoor) -> float | None:
        """Do what is to be done now. Returns until when. Raises: StoreError."""
        if not await asyncio.to_thread(door.exists):
            return None
        storage = await asyncio.to_thread(door.open)
        if not await asyncio.to_thread(storage.batches.try_to_own):
            return IDLE_S
        now_s = self._services.clock.monotonic_s()
        if now_s >= self._sweep_at_s:
            await asyncio.to_thread(storage.files.sweep)
            await asyncio.to_thread(storage.batches.sweep)
            self._sweep_at_s = now_s + SWEEP_S
        records = await asyncio.to_thread(storage.batches.unfinished)
        self._services.metrics.set(BATCHES_UNFINISHED, len(records))
        self._steer(storage, records)
        return BUSY_S if records else IDLE_S

    def _steer(self, storage: Storage, records: Sequence[BatchRecord]) -> None:
        now_s = self._services.clock.monotonic_s()
        for record in records:
            reason = self._reason_to_stop(record)
            is_due = self._not_before_s.get(record.id, 0.0) <= now_s
            if record.id not in self._runs and is_due and self._is_served(record, reason):
                self._begin(storage, record)
            if reason is not None and record.id in self._runs:
                self._runs[record.id][0].stop(reason)

    def _is_served(self, record: BatchRecord, reason: Reason | None) -> bool:
        """Whether its lines can be asked here; one that is to end has none left to ask."""
        if record.endpoint in self._routes or reason or record.status == "finalizing":
            return True
        if record.id not in self._unserved:
            self._unserved.add(record.id)
            text = "%s waits for a version of headrace that serves %s to batches"
            _log.error(text, record.id, record.endpoint)
        return False

    def _begin(self, storage: Storage, record: BatchRecord) -> None:
        turns = Turns(self.slots, self.room, self._tenants[record.tenant], self._reading)
        route = self._routes.get(record.endpoint, _ask_nothing)
        run = BatchRun(self._services, storage, route, record, turns)
        task = asyncio.create_task(run.run())
        self._runs[record.id] = run, task
        task.add_done_callback(lambda done: self._end(record.id, done))

    def _end(self, batch_id: str, task: asyncio.Task[None]) -> None:
        del self._runs[batch_id]
        self._not_before_s.pop(batch_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed and is tried again later", batch_id, exc_info=error)
            retry_at_s = self._services.clock.monotonic_s() + FAILED_RUN_S
            self._not_before_s[batch_id] = retry_at_s

    def _reason_to_stop(self, record: BatchRecord) -> Reason | None:
        if record.status == "cancelling":
            return "cancelled"
        is_late = record.expires_at_s <= self._services.clock.unix_s()
        return "expired" if is_late and record.status != "finalizing" else None


async def _ask_nothing(_services: Services, _call: Call) -> NoReturn:
    """The route of a batch that is only brought to its end."""
    raise RuntimeError("A batch without a route has asked a line.")
