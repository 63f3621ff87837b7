"""Scheduler: who runs this step, with how many tokens, and what comes of it.

In: RequestSpec, Abort by id, ModelRunnerOutput. Out: SchedulerOutput, StepReport. There is no
prefill and no decode: each request has `num_computed_tokens` catching up with the tokens it has,
and a step gives each one some. Only writer of RequestState, with the two parts it is made of: where
requests are (request_places.py), and who starts (admissions.py). Knows nothing of text or arrays.
Source: the idea of tokens catching up is vLLM's, `v1/core/sched/scheduler.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.activity import AnswerActivity
from headrace.core.clock import Clock
from headrace.core.errors import ContextTooLong, HeadraceError, InvalidParameter, RequestError
from headrace.core.output import FinishReason
from headrace.core.step import (
    ModelRunnerOutput,
    RequestProgress,
    RowOutput,
    ScheduledRequest,
    SchedulerOutput,
    StepReport,
    StepStats,
)
from headrace.sched.admissions import Admissions, Hold
from headrace.sched.preemption import choose_victim
from headrace.sched.request_places import RequestPlaces
from headrace.sched.request_state import RequestSpec, RequestState, RequestStatus
from headrace.sched.run_ahead import can_grow, expect, take_back
from headrace.sched.step_records import (
    Plan,
    introduce,
    to_abort,
    to_failure,
    to_progress,
    to_scheduled,
)
from headrace.sched.stop import find_stop
from headrace.sched.token_budget import SchedulerLimits, TokenBudget


class Scheduler:
    """Plans steps and takes in what came of them.

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
        self._places = RequestPlaces(limits.max_num_requests, kv_cache, policy)
        self._admissions = Admissions(limits.max_num_seqs, kv_cache, self._places)
        self._ended: list[RequestProgress] = []
        self._step_id = 0
        # When the device began with the step that will be reported next.
        self._step_started_at_s = 0.0
        self._planned_ahead: SchedulerOutput | None = None

    @property
    def has_work(self) -> bool:
        """Tell whether a step would compute, report or forget anything."""
        return bool(self._ended or self._places.has_forgotten or self._admissions.can_move)

    @property
    def num_unfinished(self) -> int:
        return len(self._places)

    @property
    def adapters_in_use(self) -> frozenset[str]:
        """Digests that unfinished requests run with."""
        return frozenset(request.spec.adapter for request in self._places)

    def add(self, spec: RequestSpec) -> None:
        """Queue a request.

        Raises: ContextTooLong when it could never run; CapacityError when the queue is full;
        InvalidParameter when the id is in use.
        """
        num_known_tokens = len(spec.prompt_token_ids) + len(spec.output_token_ids)
        if num_known_tokens + 1 > self.max_num_tokens:
            raise ContextTooLong(num_known_tokens, self.max_num_tokens, param="prompt")
        if spec.request_id in self._places:
            raise InvalidParameter("request_id", spec.request_id, "an id that is not in use")
        self._places.add(spec, self.max_num_tokens, self._clock.monotonic_s())

    def abort(self, request_id: str) -> None:
        """End a request now and free its blocks. An unknown id is one that ended already."""
        request = self._places.find(request_id)
        if request is not None:
            self._places.end(request)
            self._ended.append(to_abort(request))

    def refuse(self, request_id: str, error: HeadraceError) -> None:
        """Report a request that `add` did not take."""
        refusal = RequestProgress(
            request_id,
            finish_reason="error",
            queued_at_s=self._clock.monotonic_s(),
            error=error.message,
            is_callers_fault=isinstance(error, RequestError),
        )
        self._ended.append(refusal)

    def hold(self, what: Hold | None) -> None:
        """From the next step on start no request (`admissions`), or compute nothing at all.

        None goes on. A request that has begun and was preempted may run on while admissions are
        held.
        """
        self._admissions.hold = what

    def reset_prefixes(self, reset_running: bool = False) -> bool:
        """Forget cached prefixes; false, and no change, while requests hold blocks.

        With `reset_running` they are preempted first. Call it between two steps.
        """
        if self._places.running and not reset_running:
            return False
        for request in list(self._places.running):
            self._places.preempt(request)
        self._kv_cache.forget_prefixes()
        return True

    def schedule(self) -> SchedulerOutput:
        """Plan a step: decodes, their drafts, chunks of running requests, then admissions.

        Background requests come last in each, and have few tokens while there are others.
        Mutates: blocks, queue and running; progress is made in `update`.
        """
        self._step_started_at_s = self._clock.monotonic_s()
        plan: Plan = []
        if self._admissions.hold != "everything":
            self._fill(plan, self._step_started_at_s)
        else:
            self._admissions.skip("pause")
        return self._to_output(plan)

    def schedule_ahead(self, output: SchedulerOutput) -> SchedulerOutput | None:
        """Plan the step behind one that is computed, as if it ended no request.

        To be submitted before `update` takes in `output`. A request that has ended by then is
        computed once more for nothing and keeps its blocks until the planned step is over. None
        where nothing is left to plan, or it needs to be known what `output` chooses: for requests
        that are not plain, and where one has to be stopped.
        Mutates: blocks, queue and running.
        """
        admissions, places = self._admissions, self._places
        if places.num_synchronous or admissions.hold == "everything" or admissions.must_make_way:
            return None
        expect(places, output)
        plan: Plan = []
        if can_grow(places, self._kv_cache.pool.num_free_blocks, self._kv_cache.block_size):
            self._fill(plan, self._clock.monotonic_s())
        if not plan:
            take_back(places, output)
            return None
        self._planned_ahead = self._to_output(plan)
        return self._planned_ahead

    def _to_output(self, plan: Plan) -> SchedulerOutput:
        self._step_id += 1
        return SchedulerOutput(
            self._step_id,
            scheduled=tuple(to_scheduled(request, num_tokens) for request, num_tokens in plan),
            new_requests=introduce(plan),
            finished_request_ids=self._places.take_forgotten(),
            block_copies=self._admissions.take_block_copies(),
        )

    def _fill(self, plan: Plan, now_s: float) -> None:
        """Spend a step's budget. Mutates: plan."""
        has_others = self._admissions.has_interactive
        background = self.limits.max_mixed_background_tokens if has_others else None
        budget = TokenBudget(self.limits.max_num_batched_tokens, background)
        self._admissions.make_way()
        num_preempted = self._plan_decodes(plan, budget)
        self._plan_drafts(plan, budget)
        if plan and self.limits.max_mixed_prompt_tokens is not None:
            budget.bound(self.limits.max_mixed_prompt_tokens)
        self._plan_chunks(plan, budget)
        if num_preempted:
            self._admissions.skip("kv_blocks")
        else:
            self._admissions.plan(plan, budget, now_s)

    def update(self, output: SchedulerOutput, result: ModelRunnerOutput) -> StepReport:
        """Take in what a step computed: progress, new tokens, ends.

        Raises: RuntimeError when the result does not fit the step.
        """
        if result.step_id != output.step_id:
            raise RuntimeError(f"Result of step {result.step_id} came for step {output.step_id}.")
        self._take_over(output)
        progress, self._ended = self._ended, []
        step_s = self._clock.monotonic_s() - self._step_started_at_s
        token_s = step_s / max(1, output.num_scheduled_tokens)
        for row in output.scheduled:
            request = self._places.find(row.request_id)
            if request is None:  # aborted while the step was computed
                continue
            _share(request, row, token_s)
            found = result.rows[row.request_id]
            if found.error is not None:
                self._places.end(request)
                progress.append(to_failure(request, found))
                continue
            if row.is_sampled and not found.token_ids and not found.is_complete:
                raise RuntimeError(f"The step chose no token for request {row.request_id!r}.")
            gained = self._accept(request, row, found)
            if gained is not None:
                progress.append(gained)
        return self._report(output, progress, result.speed_up)

    def _take_over(self, output: SchedulerOutput) -> None:
        """A step is over: on its way is the one that was planned behind it, or none."""
        ahead = self._planned_ahead
        if ahead is None or ahead.step_id == output.step_id:
            self._planned_ahead = None
            self._places.fly(frozenset())
        else:
            take_back(self._places, output)
            self._places.fly(frozenset(row.request_id for row in ahead.scheduled))

    def inspect(self) -> tuple[AnswerActivity, ...]:
        """What runs and what waits, and why."""
        return self._admissions.inspect()

    def check_integrity(self) -> None:
        """Prove that requests, queue, running and blocks agree. Expensive; for tests.

        Raises: RuntimeError naming what differs.
        """
        self._places.check_integrity(self.limits.max_num_seqs)

    def _plan_decodes(self, plan: Plan, budget: TokenBudget) -> int:
        """Give one token to each request that has caught up; stop others if blocks run out.

        Requests come in rank order and the victim has the highest rank, so it is never one that
        is planned already.
        """
        num_preempted = 0
        for request in [r for r in self._places.running if r.num_pending_tokens == 1]:
            is_background = request.spec.is_background
            while request.status is RequestStatus.RUNNING and budget.has_any(is_background):
                if self._kv_cache.allocate(request.block_table, request.num_tokens):
                    plan.append((request, budget.take(1, is_background)))
                    break
                self._places.preempt(choose_victim(self._places.running))
                num_preempted += 1
        return num_preempted

    def _plan_drafts(self, plan: Plan, budget: TokenBudget) -> None:
        """Let the requests of the plan compute their drafts too, with tokens and blocks to spare.

        While a prompt is behind or waits, half of what is left is for it. Where blocks are left
        then and nobody waits for them, a draft model has room for its next guesses.
        Mutates: plan.
        """
        num_spare = self._admissions.num_spare_blocks
        num_lookahead = 0 if len(self._places.waiting) else self.limits.num_lookahead_tokens
        num_left = budget.num_left // 2 if self._places.has_prompts else budget.num_left
        for index, (request, num_tokens) in enumerate(plan):
            # The token after the last draft must fit too.
            room = request.max_num_tokens - request.num_tokens - 1
            num_drafts = min(len(request.draft_token_ids), room, num_left)
            is_background = request.spec.is_background
            num_slots = request.num_tokens
            if num_drafts >= 1 and budget.has_any(is_background):
                num_slots += num_drafts
                if self._kv_cache.allocate(request.block_table, num_slots, (), num_spare):
                    num_given = budget.take(num_drafts, is_background)
                    plan[index] = (request, num_tokens + num_given)
                    num_left -= num_given
            if num_lookahead and room > 0:
                num_slots = min(num_slots + num_lookahead, request.max_num_tokens)
                self._kv_cache.allocate(request.block_table, num_slots, (), num_spare)

    def _plan_chunks(self, plan: Plan, budget: TokenBudget) -> None:
        """Go on with requests that are behind. Their blocks were allocated on admission."""
        for request in self._places.running:
            is_background = request.spec.is_background
            if not budget.has_any(is_background):
                break
            if request.num_pending_tokens > 1:
                num_tokens = budget.take(request.num_pending_tokens, is_background)
                plan.append((request, num_tokens))

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
        # A complete form is an answer that ended by itself, also at the length limit; but not one
        # that its drafts complete behind the token that ended it.
        is_whole = num_new_tokens == len(found.token_ids)
        is_complete = found.is_complete and is_whole and finish_reason != "stop"
        finish_reason = "stop" if is_complete else finish_reason
        if finish_reason is not None:
            self._places.end(request)
        request.num_prompt_logprobs += len(found.prompt_logprobs)
        if not num_new_tokens and not found.prompt_logprobs and not is_complete:
            return None
        progress = to_progress(request, found, num_new_tokens, finish_reason, stop_token_id)
        return progress._replace(is_complete=True) if is_complete else progress

    def _count_draft(
        self, request: RequestState, num_draft_tokens: int, num_accepted_tokens: int
    ) -> None:
        request.num_draft_tokens += num_draft_tokens
        request.num_accepted_tokens += num_accepted_tokens
        counters = self._places.counters
        counters.num_drafts += 1
        counters.num_draft_tokens += num_draft_tokens
        counters.num_accepted_tokens += num_accepted_tokens

    def _report(
        self, output: SchedulerOutput, progress: list[RequestProgress], speed_up: float | None
    ) -> StepReport:
        now_s = self._clock.monotonic_s()
        counters, places = self._places.take_counters(), self._places
        num_background = len(places) - places.num_interactive
        num_running = sum(r.spec.is_background for r in places.running) if num_background else 0
        stats = StepStats(
            num_running=len(places.running),
            num_waiting=len(places.waiting),
            num_background_running=num_running,
            num_background_waiting=num_background - num_running,
            num_deferred=self._admissions.num_held,
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
        self._step_started_at_s = now_s
        return StepReport(output.step_id, tuple(progress), stats, ended_at_s=now_s)


def _share(request: RequestState, row: ScheduledRequest, token_s: float) -> None:
    """Count a step's time for a request: each token of the step takes an equal part of it."""
    num_tokens = len(row.token_ids)
    num_prompt = request.num_prompt_tokens - row.num_computed_tokens
    if num_prompt > 0:
        num_prompt = min(num_tokens, num_prompt)
        request.prefill_compute_s += num_prompt * token_s
        num_tokens -= num_prompt
    request.decode_compute_s += num_tokens * token_s


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
