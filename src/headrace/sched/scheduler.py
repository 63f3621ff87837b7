"""Scheduler: who runs this step, with how many tokens, and what comes of it.

In: RequestSpec, Abort by id, ModelRunnerOutput. Out: SchedulerOutput, StepReport. There is no
prefill and no decode: each request has `num_computed_tokens` catching up with the tokens it has,
and a step gives each one some. Only writer of RequestState. Knows nothing of text or arrays.
Source: the idea of tokens catching up is vLLM's, `v1/core/sched/scheduler.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.activity import AnswerActivity, WaitReason
from headrace.core.clock import Clock
from headrace.core.errors import ContextTooLong, InvalidParameter
from headrace.core.output import FinishReason
from headrace.core.step import (
    ModelRunnerOutput,
    NewRequest,
    RequestProgress,
    RowOutput,
    ScheduledRequest,
    SchedulerOutput,
    StepReport,
    StepStats,
)
from headrace.sched.inspection import describe_requests
from headrace.sched.preemption import choose_victim, preempt
from headrace.sched.request_queue import (
    RANK_POLICIES,
    BackgroundLast,
    RequestQueue,
    insert_ranked,
    remove_ranked,
)
from headrace.sched.request_state import RequestSpec, RequestState, RequestStatus
from headrace.sched.stop import find_stop
from headrace.sched.token_budget import SchedulerLimits, TokenBudget

Plan = list[tuple[RequestState, int]]
Hold = Literal["admissions", "everything"]


@dataclass(slots=True)
class StepCounters:
    """What happened since the last report. Prefix numbers are tokens of first admissions."""

    num_preemptions: int = 0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0


class Scheduler:
    """Requests in two places: `waiting`, sorted by rank, and `running`, sorted by rank.

    `max_num_tokens` is the longest request, prompt and output, that can be computed here.
    """

    def __init__(
        self,
        limits: SchedulerLimits,
        kv_cache: KVCacheManager,
        clock: Clock,
        policy: str = "fair",
    ) -> None:
        self.limits = limits
        self.max_num_tokens = min(limits.max_model_len, kv_cache.max_num_tokens)
        self._kv_cache = kv_cache
        self._clock = clock
        self._ranks = BackgroundLast(RANK_POLICIES[policy])
        self._requests: dict[str, RequestState] = {}
        self._num_interactive = 0
        self._waiting = RequestQueue(limits.max_num_requests)
        self._running: list[RequestState] = []
        self._ended: list[RequestProgress] = []
        self._forgotten_ids: list[str] = []
        self._hold: Hold | None = None
        self._counters = StepCounters()
        # Why the last step admitted no more, and who waits for another one's prefix.
        self._stop: WaitReason = "step"
        self._held_ids: frozenset[str] = frozenset()
        self._num_arrivals = 0
        self._step_id = 0
        self._step_started_at_s = 0.0

    @property
    def has_work(self) -> bool:
        """Tell whether a step would compute, report or forget anything."""
        return bool(self._ended or self._forgotten_ids or self._can_move)

    @property
    def _can_move(self) -> bool:
        """Whether a step would compute anything."""
        if self._hold is None:
            return bool(self._requests)
        if self._hold == "everything":
            return False
        return bool(self._running) or any(request.has_begun for request in self._waiting)

    @property
    def num_unfinished(self) -> int:
        return len(self._requests)

    @property
    def adapters_in_use(self) -> frozenset[str]:
        """Digests that unfinished requests run with."""
        return frozenset(request.spec.adapter for request in self._requests.values())

    def add(self, spec: RequestSpec) -> None:
        """Queue a request.

        Raises: ContextTooLong when it could never run; CapacityError when the queue is full;
        InvalidParameter when the id is in use.
        """
        num_known_tokens = len(spec.prompt_token_ids) + len(spec.output_token_ids)
        if num_known_tokens + 1 > self.max_num_tokens:
            raise ContextTooLong(num_known_tokens, self.max_num_tokens, param="prompt")
        if spec.request_id in self._requests:
            raise InvalidParameter("request_id", spec.request_id, "an id that is not in use")
        table = self._kv_cache.new_table(spec.tenant, spec.cache_salt, spec.adapter)
        self._waiting.check_room()
        rank = self._ranks.rank(spec, self._num_arrivals)
        now_s = self._clock.monotonic_s()
        request = RequestState(spec, table, rank, self.max_num_tokens, now_s)
        self._waiting.restore(request)
        self._requests[spec.request_id] = request
        self._num_interactive += not spec.is_background
        self._num_arrivals += 1

    def abort(self, request_id: str) -> None:
        """End a request now and free its blocks. An unknown id is one that ended already."""
        request = self._requests.get(request_id)
        if request is not None:
            self._end(request)
            self._ended.append(_to_progress(request, RowOutput(), 0, "abort"))

    def refuse(self, request_id: str, error: str) -> None:
        """Report a request that `add` did not take."""
        now_s = self._clock.monotonic_s()
        self._ended.append(
            RequestProgress(request_id, finish_reason="error", queued_at_s=now_s, error=error)
        )

    def hold(self, what: Hold | None) -> None:
        """From the next step on start no request (`admissions`), or compute nothing at all.

        None goes on. A request that has begun and was preempted may run on while admissions are
        held.
        """
        self._hold = what

    def reset_prefixes(self, reset_running: bool = False) -> bool:
        """Forget cached prefixes; false, and no change, while requests hold blocks.

        With `reset_running` they are preempted first. Call it between two steps.
        """
        if self._running and not reset_running:
            return False
        for request in list(self._running):
            self._preempt(request)
        self._kv_cache.forget_prefixes()
        return True

    def schedule(self) -> SchedulerOutput:
        """Plan a step: decodes, their drafts, chunks of running requests, then admissions.

        Background requests come last in each, and have few tokens while there are others.
        Mutates: blocks, queue and running; progress is made in `update`.
        """
        self._step_id += 1
        self._step_started_at_s = self._clock.monotonic_s()
        background = self.limits.max_mixed_background_tokens if self._num_interactive else None
        budget = TokenBudget(self.limits.max_num_batched_tokens, background)
        plan: Plan = []
        if self._hold != "everything":
            self._fill(plan, budget)
        forgotten_ids, self._forgotten_ids = tuple(self._forgotten_ids), []
        return SchedulerOutput(
            self._step_id,
            scheduled=tuple(_to_scheduled(request, num_tokens) for request, num_tokens in plan),
            new_requests=_introduce(plan),
            finished_request_ids=forgotten_ids,
        )

    def _fill(self, plan: Plan, budget: TokenBudget) -> None:
        """Spend the budget. Mutates: plan, budget."""
        self._make_way()
        num_preempted = self._plan_decodes(plan, budget)
        self._plan_drafts(plan, budget)
        if plan and self.limits.max_mixed_prompt_tokens is not None:
            budget.bound(self.limits.max_mixed_prompt_tokens)
        self._plan_chunks(plan, budget)
        self._stop, self._held_ids = "kv_blocks" if num_preempted else "step", frozenset()
        if not num_preempted:
            self._plan_admissions(plan, budget)

    def update(self, output: SchedulerOutput, result: ModelRunnerOutput) -> StepReport:
        """Take in what a step computed: progress, new tokens, ends.

        Raises: RuntimeError when the result does not fit the step.
        """
        if result.step_id != output.step_id:
            raise RuntimeError(f"Result of step {result.step_id} came for step {output.step_id}.")
        progress, self._ended = self._ended, []
        for row in output.scheduled:
            request = self._requests.get(row.request_id)
            if request is None:  # aborted while the step was computed
                continue
            found = result.rows[row.request_id]
            if found.error is not None:
                self._end(request)
                progress.append(_to_failure(request, found.error))
                continue
            if row.is_sampled and not found.token_ids and not found.is_complete:
                raise RuntimeError(f"The step chose no token for request {row.request_id!r}.")
            gained = self._accept(request, row, found)
            if gained is not None:
                progress.append(gained)
        return self._report(output, progress, result.speed_up)

    def inspect(self) -> tuple[AnswerActivity, ...]:
        """What runs and what waits, and why."""
        if self._hold is None:
            return describe_requests(self._running, self._waiting, self._stop, self._held_ids)
        kept: WaitReason | None = "pause" if self._hold == "everything" else None
        return describe_requests(self._running, self._waiting, "pause", frozenset(), kept)

    def check_integrity(self) -> None:
        """Prove that requests, queue, running and blocks agree. Expensive; for tests.

        Raises: RuntimeError naming what differs.
        """
        held = [*self._running, *self._waiting]
        if sorted(request.request_id for request in held) != sorted(self._requests):
            raise RuntimeError("A request is neither waiting nor running, or is both.")
        if len(self._running) > self.limits.max_num_seqs:
            raise RuntimeError(f"{len(self._running)} requests run.")
        if any(request.block_table.block_ids for request in self._waiting):
            raise RuntimeError("A waiting request holds blocks.")
        self._kv_cache.check_integrity([request.block_table for request in held])

    def _plan_decodes(self, plan: Plan, budget: TokenBudget) -> int:
        """Give one token to each request that has caught up; stop others if blocks run out.

        Requests come in rank order and the victim has the highest rank, so it is never one that
        is planned already.
        """
        num_preempted = 0
        for request in [r for r in self._running if r.num_pending_tokens == 1]:
            is_background = request.spec.is_background
            while request.status is RequestStatus.RUNNING and budget.has_any(is_background):
                if self._kv_cache.allocate(request.block_table, request.num_tokens):
                    plan.append((request, budget.take(1, is_background)))
                    break
                self._preempt(choose_victim(self._running))
                num_preempted += 1
        return num_preempted

    def _plan_drafts(self, plan: Plan, budget: TokenBudget) -> None:
        """Let the requests of the plan compute their drafts too, with tokens and blocks to spare.

        Where blocks are left then and nobody waits for them, a draft model has room for its next
        guesses.
        Mutates: plan.
        """
        num_spare = self._num_spare_blocks
        num_lookahead = 0 if len(self._waiting) else self.limits.num_lookahead_tokens
        for index, (request, num_tokens) in enumerate(plan):
            # The token after the last draft must fit too.
            room = request.max_num_tokens - request.num_tokens - 1
            num_drafts = min(len(request.draft_token_ids), room)
            is_background = request.spec.is_background
            num_slots = request.num_tokens
            if num_drafts >= 1 and budget.has_any(is_background):
                num_slots += num_drafts
                if self._kv_cache.allocate(request.block_table, num_slots, (), num_spare):
                    plan[index] = (request, num_tokens + budget.take(num_drafts, is_background))
            if num_lookahead and room > 0:
                num_slots += min(num_lookahead, room)
                self._kv_cache.allocate(request.block_table, num_slots, (), num_spare)

    def _plan_chunks(self, plan: Plan, budget: TokenBudget) -> None:
        """Go on with requests that are behind. Their blocks were allocated on admission."""
        for request in self._running:
            is_background = request.spec.is_background
            if not budget.has_any(is_background):
                break
            if request.num_pending_tokens > 1:
                num_tokens = budget.take(request.num_pending_tokens, is_background)
                plan.append((request, num_tokens))

    def _plan_admissions(self, plan: Plan, budget: TokenBudget) -> None:
        """Start waiting requests in rank order while seats, blocks and tokens last.

        A request whose next block is being computed by another one waits for it instead of
        computing it too. It keeps its seat and holds nobody else up.
        """
        held: list[RequestState] = []
        held_ids: set[str] = set()
        while (request := self._take_waiting()) is not None:
            if not budget.num_left or len(self._running) + len(held) >= self.limits.max_num_seqs:
                self._stop = "seats" if budget.num_left else "tokens"
                held.append(request)
                break
            is_background = request.spec.is_background
            is_before_its_turn = is_background and bool(held) and not held[0].spec.is_background
            if is_before_its_turn or not budget.has_any(is_background):
                self._stop = "interactive"
                held.append(request)
                break
            prefix = self._lookup(request)
            table = request.block_table
            if self._kv_cache.is_being_computed(table, len(prefix)) and (
                is_background or not self._is_background_behind
            ):
                held.append(request)
                held_ids.add(request.request_id)
                continue
            num_spare = self._num_spare_blocks
            if not self._kv_cache.allocate(table, request.num_tokens, prefix, num_spare):
                self._stop = "kv_blocks"
                held.append(request)
                break
            self._admit(request, len(prefix) * self._kv_cache.block_size)
            num_tokens = budget.take(request.num_pending_tokens, is_background)
            plan.append((request, num_tokens))
        self._held_ids = frozenset(held_ids)
        for request in held:
            self._waiting.restore(request)

    def _take_waiting(self) -> RequestState | None:
        """Take the request whose turn it is; while admissions are held, one that has begun."""
        if self._hold is None:
            return self._waiting.pop() if len(self._waiting) else None
        request = next((request for request in self._waiting if request.has_begun), None)
        if request is not None:
            self._waiting.remove(request)
        return request

    @property
    def _is_background_behind(self) -> bool:
        """Whether a block may be computed by a request that has few tokens in a step: too slow to
        wait for."""
        return any(r.spec.is_background and r.num_pending_tokens > 1 for r in self._running)

    def _make_way(self) -> None:
        """Stop background requests while an interactive one waits for their seats or blocks."""
        request = self._waiting.first
        if request is None or request.spec.is_background or self._hold is not None:
            return
        num_blocks = -(-request.num_tokens // self._kv_cache.block_size)
        while self._running and self._running[-1].spec.is_background:
            has_seat = len(self._running) < self.limits.max_num_seqs
            num_free = self._kv_cache.pool.num_free_blocks - self._num_spare_blocks
            if has_seat and num_blocks <= num_free:
                return
            self._preempt(self._running[-1])

    @property
    def _num_spare_blocks(self) -> int:
        """Blocks an admission leaves for running requests to grow: 1 %, so that it is not undone
        by the next step. None when nothing runs: what fits alone must start."""
        return -(-self._kv_cache.pool.num_blocks // 100) if self._running else 0

    def _lookup(self, request: RequestState) -> Sequence[int]:
        """Find cached blocks. Prompt logprobs and a mean need every position, so none then."""
        if request.needs_every_position:
            return ()
        return self._kv_cache.lookup(request.block_table, request.token_ids)

    def _admit(self, request: RequestState, num_cached_tokens: int) -> None:
        request.num_computed_tokens = num_cached_tokens
        request.status = RequestStatus.RUNNING
        insert_ranked(self._running, request)
        if request.scheduled_at_s is None:
            self._ranks.started(request)
            request.scheduled_at_s = self._step_started_at_s
            request.num_cached_tokens = num_cached_tokens
            self._counters.num_prefix_queries += request.num_tokens
            self._counters.num_prefix_hits += num_cached_tokens

    def _preempt(self, request: RequestState) -> None:
        remove_ranked(self._running, request)
        preempt(request, self._kv_cache)
        self._waiting.restore(request)
        self._counters.num_preemptions += 1

    def _accept(
        self, request: RequestState, row: ScheduledRequest, found: RowOutput
    ) -> RequestProgress | None:
        """Append what was found, up to the token that ends the request.

        Computed are the known tokens and the drafts that were chosen. What the cache holds of the
        other drafts is written over by the tokens that come in their place.
        """
        num_new_tokens, finish_reason, stop_token_id = _append(request, found.token_ids)
        num_accepted_tokens = max(0, num_new_tokens - 1)
        num_known_tokens = len(row.token_ids) - row.num_draft_tokens
        request.num_computed_tokens += num_known_tokens + num_accepted_tokens
        self._kv_cache.register(request.block_table, request.token_ids, request.num_computed_tokens)
        if row.num_draft_tokens:
            self._count_draft(request, row.num_draft_tokens, num_accepted_tokens)
        request.draft_token_ids = found.draft_token_ids
        # A complete form is an answer that ended by itself, also at the length limit.
        is_complete = found.is_complete and finish_reason != "stop"
        finish_reason = "stop" if is_complete else finish_reason
        if finish_reason is not None:
            self._end(request)
        request.num_prompt_logprobs += len(found.prompt_logprobs)
        if not num_new_tokens and not found.prompt_logprobs and not is_complete:
            return None
        progress = _to_progress(request, found, num_new_tokens, finish_reason, stop_token_id)
        return progress._replace(is_complete=True) if is_complete else progress

    def _count_draft(
        self, request: RequestState, num_draft_tokens: int, num_accepted_tokens: int
    ) -> None:
        request.num_draft_tokens += num_draft_tokens
        request.num_accepted_tokens += num_accepted_tokens
        self._counters.num_drafts += 1
        self._counters.num_draft_tokens += num_draft_tokens
        self._counters.num_accepted_tokens += num_accepted_tokens

    def _end(self, request: RequestState) -> None:
        if request.status is RequestStatus.RUNNING:
            remove_ranked(self._running, request)
        else:
            self._waiting.remove(request)
        request.status = RequestStatus.FINISHED
        self._ranks.ended(request)
        self._kv_cache.free(request.block_table)
        del self._requests[request.request_id]
        self._num_interactive -= not request.spec.is_background
        if request.is_known_to_runner:
            self._forgotten_ids.append(request.request_id)

    def _report(
        self, output: SchedulerOutput, progress: list[RequestProgress], speed_up: float | None
    ) -> StepReport:
        now_s = self._clock.monotonic_s()
        counters, self._counters = self._counters, StepCounters()
        num_background = len(self._requests) - self._num_interactive
        num_running = sum(r.spec.is_background for r in self._running) if num_background else 0
        stats = StepStats(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_background_running=num_running,
            num_background_waiting=num_background - num_running,
            num_deferred=len(self._held_ids),
            num_used_blocks=self._kv_cache.pool.num_used_blocks,
            num_blocks=self._kv_cache.pool.num_blocks,
            num_scheduled_tokens=output.num_scheduled_tokens,
            num_new_preemptions=counters.num_preemptions,
            num_new_prefix_queries=counters.num_prefix_queries,
            num_new_prefix_hits=counters.num_prefix_hits,
            num_new_drafts=counters.num_drafts,
            num_new_draft_tokens=counters.num_draft_tokens,
            num_new_accepted_tokens=counters.num_accepted_tokens,
            step_s=now_s - self._step_started_at_s,
            draft_speed_up=speed_up,
        )
        return StepReport(output.step_id, tuple(progress), stats, ended_at_s=now_s)


def _append(
    request: RequestState, token_ids: Sequence[int]
) -> tuple[int, FinishReason | None, int | None]:
    """Append tokens up to the one that ends the request: how many, why it ends, its stop token."""
    for num_tokens, token_id in enumerate(token_ids, 1):
        request.token_ids.append(token_id)
        finish_reason, stop_token_id = find_stop(request)
        if finish_reason is not None:
            return num_tokens, finish_reason, stop_token_id
    return len(token_ids), None, None


def _to_scheduled(request: RequestState, num_tokens: int) -> ScheduledRequest:
    start = request.num_computed_tokens
    end = start + num_tokens
    token_ids = tuple(request.token_ids[start:end])
    num_draft_tokens = num_tokens - len(token_ids)
    return ScheduledRequest(
        request.spec.request_id,
        token_ids + request.draft_token_ids[:num_draft_tokens],
        start,
        tuple(request.block_table.block_ids),
        request.num_logit_rows(len(token_ids)) + num_draft_tokens,
        end >= len(request.token_ids),
        num_draft_tokens,
    )


def _to_progress(
    request: RequestState,
    found: RowOutput,
    num_new_tokens: int,
    finish_reason: FinishReason | None,
    stop_token_id: int | None = None,
) -> RequestProgress:
    return RequestProgress(
        request.spec.request_id,
        found.token_ids[:num_new_tokens],
        found.logprobs[:num_new_tokens],
        found.prompt_logprobs,
        finish_reason,
        stop_token_id,
        request.num_cached_tokens,
        request.num_preemptions,
        request.queued_at_s,
        request.scheduled_at_s,
        vector=found.vector,
        num_draft_tokens=request.num_draft_tokens,
        num_accepted_tokens=request.num_accepted_tokens,
    )


def _to_failure(request: RequestState, error: str) -> RequestProgress:
    return _to_progress(request, RowOutput(), 0, "error")._replace(error=error)


def _introduce(plan: Plan) -> tuple[NewRequest, ...]:
    """Describe the requests that the executor has not met."""
    new_requests = []
    for request, _ in plan:
        if not request.is_known_to_runner:
            request.is_known_to_runner = True
            new_requests.append(request.to_new_request())
    return tuple(new_requests)
