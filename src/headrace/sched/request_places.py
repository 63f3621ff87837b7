"""RequestPlaces: where each request is: in the queue, among those that run, or nowhere any more.

In: requests. Owns the moves between these places and what goes with each: ranks, blocks, what the
executor is to forget, counts. A part of the scheduler, and as such a writer of RequestState. Knows
nothing of budgets and steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.sched.preemption import preempt
from headrace.sched.request_queue import (
    RANK_POLICIES,
    BackgroundLast,
    RequestQueue,
    insert_ranked,
    remove_ranked,
)
from headrace.sched.request_state import RequestSpec, RequestState, RequestStatus


@dataclass(slots=True)
class StepCounters:
    """What happened since the last report. Prefix numbers are tokens of first admissions."""

    num_preemptions: int = 0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


class RequestPlaces:
    """`waiting` and `running` are sorted by rank. A move changes both, and the request."""

    def __init__(self, max_num_requests: int, kv_cache: KVCacheManager, policy: str) -> None:
        self.waiting = RequestQueue(max_num_requests)
        self.running: list[RequestState] = []
        self.num_interactive = 0
        """Of all, those that are not in the background."""
        self.num_synchronous = 0
        """Of all, those whose next step is not planned before their last one is over."""
        self.counters = StepCounters()
        self._kv_cache = kv_cache
        self._ranks = BackgroundLast(RANK_POLICIES[policy])
        self._requests: dict[str, RequestState] = {}
        self._forgotten_ids: list[str] = []
        self._flying_ids: Set[str] = frozenset()
        self._leaving: list[RequestState] = []
        self._num_arrivals = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[RequestState]:
        return iter(self._requests.values())

    def __contains__(self, request_id: str) -> bool:
        is_leaving = any(request.request_id == request_id for request in self._leaving)
        return is_leaving or request_id in self._requests

    @property
    def has_forgotten(self) -> bool:
        """Whether the executor is to be told of requests that ended."""
        return bool(self._forgotten_ids)

    @property
    def has_prompts(self) -> bool:
        """Whether more is to be computed of some request than its next token."""
        return bool(len(self.waiting)) or any(r.num_pending_tokens > 1 for r in self.running)

    def find(self, request_id: str) -> RequestState | None:
        """A request that has not ended."""
        return self._requests.get(request_id)

    def add(self, spec: RequestSpec, max_num_tokens: int, now_s: float) -> None:
        """Queue a request. Raises: CapacityError when the queue is full."""
        self.waiting.check_room()
        table = self._kv_cache.new_table(spec.tenant, spec.cache_salt, spec.adapter)
        rank = self._ranks.rank(spec, self._num_arrivals)
        request = RequestState(spec, table, rank, max_num_tokens, now_s)
        self.waiting.restore(request)
        self._requests[spec.request_id] = request
        self.num_interactive += not spec.is_background
        self.num_synchronous += request.is_synchronous
        self._num_arrivals += 1

    def admit(self, request: RequestState, num_cached_tokens: int, now_s: float) -> None:
        """A request that was taken from the queue, and has its blocks, runs. Mutates: request."""
        request.num_computed_tokens = num_cached_tokens
        request.status = RequestStatus.RUNNING
        insert_ranked(self.running, request)
        if request.scheduled_at_s is None:
            self._ranks.started(request)
            request.scheduled_at_s = now_s
            request.num_cached_tokens = num_cached_tokens
            self.counters.num_prefix_queries += request.num_tokens
            self.counters.num_prefix_hits += num_cached_tokens

    def preempt(self, request: RequestState) -> None:
        """One that runs goes back into the queue, without its blocks. Mutates: request."""
        remove_ranked(self.running, request)
        self._keep_end(request)
        preempt(request, self._kv_cache)
        self.waiting.restore(request)
        self.counters.num_preemptions += 1

    def end(self, request: RequestState) -> None:
        """A request is over, wherever it was. Mutates: request.

        One that the step on its way computes keeps its blocks, and the executor its row, until that
        is over too.
        """
        if request.status is RequestStatus.RUNNING:
            remove_ranked(self.running, request)
        else:
            self.waiting.remove(request)
        request.status = RequestStatus.FINISHED
        self._ranks.ended(request)
        del self._requests[request.request_id]
        self.num_interactive -= not request.spec.is_background
        self.num_synchronous -= request.is_synchronous
        if request.request_id in self._flying_ids:
            self._leaving.append(request)
        else:
            self._let_go(request)

    def fly(self, request_ids: Set[str]) -> None:
        """A step is over; on its way from now on is one that computes these requests."""
        leaving, self._leaving = self._leaving, []
        self._flying_ids = request_ids
        for request in leaving:
            self._let_go(request)

    def _let_go(self, request: RequestState) -> None:
        self._keep_end(request)
        self._kv_cache.free(request.block_table)
        if request.is_known_to_runner:
            self._forgotten_ids.append(request.request_id)

    def _keep_end(self, request: RequestState) -> None:
        """What was computed of a request can be found for as long as nobody needs the blocks."""
        computed = request.token_ids[: request.num_computed_tokens]
        self._kv_cache.register_end(request.block_table, computed)

    def take_forgotten(self) -> tuple[str, ...]:
        """Requests that have ended since the last call and that the executor knows."""
        forgotten_ids, self._forgotten_ids = tuple(self._forgotten_ids), []
        return forgotten_ids

    def take_counters(self) -> StepCounters:
        """What happened since the last call."""
        counters, self.counters = self.counters, StepCounters()
        return counters

    def check_integrity(self, max_num_seqs: int) -> None:
        """Prove that requests, queue, running and blocks agree. Expensive; for tests.

        Raises: RuntimeError naming what differs.
        """
        held = [*self.running, *self.waiting]
        if sorted(request.request_id for request in held) != sorted(self._requests):
            raise RuntimeError("A request is neither waiting nor running, or is both.")
        if len(self.running) > max_num_seqs:
            raise RuntimeError(f"{len(self.running)} requests run.")
        if any(request.block_table.block_ids for request in self.waiting):
            raise RuntimeError("A waiting request holds blocks.")
        held += self._leaving
        self._kv_cache.check_integrity([request.block_table for request in held])
