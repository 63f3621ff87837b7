"""Admissions: which waiting requests a step starts, and who has to make way for them.

In: the places of requests, a step's budget. Out: rows of its plan. Owns whether requests may start
at all, and why the last step started no more. Knows nothing of what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from headrace.cache.continuations import PartialBlock
from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.activity import AnswerActivity, WaitReason
from headrace.sched.inspection import describe_requests
from headrace.sched.request_places import RequestPlaces
from headrace.sched.request_state import RequestState
from headrace.sched.step_records import Plan
from headrace.sched.token_budget import TokenBudget

Hold = Literal["admissions", "everything"]


class Admissions:
    """`hold` is what stands still: new requests, or everything; None is nothing."""

    def __init__(self, max_num_seqs: int, kv_cache: KVCacheManager, places: RequestPlaces) -> None:
        self.hold: Hold | None = None
        self._max_num_seqs = max_num_seqs
        self._kv_cache = kv_cache
        self._places = places
        # Why the last step admitted no more, and who waits for another one's prefix.
        self._stop: WaitReason = "step"
        self._held_ids: frozenset[str] = frozenset()
        self._block_copies: list[tuple[int, int]] = []

    @property
    def can_move(self) -> bool:
        """Whether a step would compute anything."""
        if self.hold is None:
            return bool(len(self._places))
        if self.hold == "everything":
            return False
        return bool(self._places.running) or any(r.has_begun for r in self._places.waiting)

    @property
    def has_interactive(self) -> bool:
        """Whether there is any request that background ones have to leave the step to."""
        if self.hold is None:
            return self._places.num_interactive > 0
        # Those that may not start have no use for what is left to them.
        moving = (*self._places.running, *(r for r in self._places.waiting if r.has_begun))
        return not all(request.spec.is_background for request in moving)

    @property
    def num_held(self) -> int:
        """Requests that wait for a prefix that another one computes."""
        return len(self._held_ids)

    @property
    def num_spare_blocks(self) -> int:
        """Blocks an admission leaves for running requests to grow: 1 %, so that it is not undone
        by the next step. None when nothing runs: what fits alone must start."""
        return -(-self._kv_cache.pool.num_blocks // 100) if self._places.running else 0

    @property
    def must_make_way(self) -> bool:
        """Whether an interactive request waits for the seat or the blocks of a background one."""
        request, running = self._places.waiting.first, self._places.running
        if request is None or request.spec.is_background or self.hold is not None:
            return False
        if not running or not running[-1].spec.is_background:
            return False
        num_blocks = -(-request.num_tokens // self._kv_cache.block_size)
        num_free = self._kv_cache.pool.num_free_blocks - self.num_spare_blocks
        return len(running) >= self._max_num_seqs or num_blocks > num_free

    def make_way(self) -> None:
        """Stop background requests while an interactive one waits for their seats or blocks."""
        while self.must_make_way:
            self._places.preempt(self._places.running[-1])

    def skip(self, reason: WaitReason) -> None:
        """A step starts nobody."""
        self._stop, self._held_ids = reason, frozenset()

    def plan(self, plan: Plan, budget: TokenBudget, now_s: float) -> None:
        """Start waiting requests in rank order while seats, blocks and tokens last.

        A request whose next block is being computed by another one waits for it instead of
        computing it too. It keeps its seat and holds nobody else up.
        Mutates: plan, budget, requests.
        """
        self.skip("step")
        held: list[RequestState] = []
        held_ids: set[str] = set()
        while (request := self._take_waiting()) is not None:
            if not budget.num_left or len(self._places.running) + len(held) >= self._max_num_seqs:
                self._stop = "seats" if budget.num_left else "tokens"
                held.append(request)
                break
            is_background = request.spec.is_background
            is_before_its_turn = is_background and bool(held) and not held[0].spec.is_background
            if is_before_its_turn or not budget.has_any(is_background):
                self._stop = "interactive"
                held.append(request)
                break
            prefix, part = self._lookup(request)
            num_cached = len(prefix) * self._kv_cache.block_size + (part.num_tokens if part else 0)
            if self._should_wait(request, len(prefix), num_cached):
                held.append(request)
                held_ids.add(request.request_id)
                continue
            table, num_spare = request.block_table, self.num_spare_blocks
            if not self._kv_cache.allocate(table, request.num_tokens, prefix, num_spare):
                self._stop = "kv_blocks"
                held.append(request)
                break
            if part is not None:
                self._copy(part.block_id, table.block_ids[len(prefix)])
            self._places.admit(request, num_cached, now_s)
            plan.append((request, budget.take(request.num_pending_tokens, is_background)))
        self._held_ids = frozenset(held_ids)
        for request in held:
            self._places.waiting.restore(request)

    def take_block_copies(self) -> tuple[tuple[int, int], ...]:
        """What those that were started since the last call begin with: (from, to), in order."""
        copies, self._block_copies = tuple(self._block_copies), []
        return copies

    def inspect(self) -> tuple[AnswerActivity, ...]:
        """What runs and what waits, and why."""
        running, waiting = self._places.running, self._places.waiting
        if self.hold is None:
            return describe_requests(running, waiting, self._stop, self._held_ids)
        kept: WaitReason | None = "pause" if self.hold == "everything" else None
        return describe_requests(running, waiting, "pause", frozenset(), kept)

    def _take_waiting(self) -> RequestState | None:
        """Take the request whose turn it is; while admissions are held, one that has begun."""
        waiting = self._places.waiting
        if self.hold is None:
            return waiting.pop() if len(waiting) else None
        request = next((request for request in waiting if request.has_begun), None)
        if request is not None:
            waiting.remove(request)
        return request

    @property
    def _is_background_behind(self) -> bool:
        """Whether a block may be computed by a request that has few tokens in a step: too slow to
        wait for."""
        running = self._places.running
        return any(r.spec.is_background and r.num_pending_tokens > 1 for r in running)

    def _lookup(self, request: RequestState) -> tuple[Sequence[int], PartialBlock | None]:
        """Find cached blocks, and one to copy the beginning of the next from. Prompt logprobs and a
        mean need every position, so none then."""
        if request.needs_every_position:
            return (), None
        table, token_ids = request.block_table, request.token_ids
        prefix = self._kv_cache.lookup(table, token_ids)
        return prefix, self._kv_cache.lookup_part(table, token_ids, len(prefix))

    def _should_wait(self, request: RequestState, num_blocks: int, num_cached: int) -> bool:
        """Whether another request computes what this one would compute next."""
        if num_cached == request.num_tokens - 1:
            return False
        is_computed = self._kv_cache.is_being_computed(request.block_table, num_blocks)
        return is_computed and (request.spec.is_background or not self._is_background_behind)

    def _copy(self, source: int, block_id: int) -> None:
        """The source may be nobody's by now, and be the very block that was given."""
        if source != block_id:
            self._block_copies.append((source, block_id))
