"""Engine: one step is schedule -> execute -> update.

In: Submit and Abort. Out: StepReport. Belongs to one thread. Knows nothing of text, threads or
channels.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.activity import AnswerActivity
from headrace.core.clock import Clock
from headrace.core.config import EngineConfig
from headrace.core.errors import HeadraceError
from headrace.core.step import StepReport
from headrace.engine.messages import Abort, Submit
from headrace.engine.started_model import StartedModel
from headrace.executor.draft_model import DraftModel
from headrace.executor.drafting_runner import Drafter, DraftingRunner, Runner
from headrace.executor.memory import Capacity
from headrace.executor.model_guesser import LOOKAHEAD_TOKENS
from headrace.sched.scheduler import Scheduler
from headrace.sched.token_budget import SchedulerLimits


class Engine:
    """A scheduler and a runner."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner

    @property
    def drafting(self) -> DraftingRunner | None:
        """What guesses, for measurements."""
        return self._runner if isinstance(self._runner, DraftingRunner) else None

    @property
    def has_work(self) -> bool:
        """Tell whether a step would compute, report or forget anything."""
        return self._scheduler.has_work

    def apply(self, message: Submit | Abort) -> None:
        """Take in a message. A request that is refused is told so in the next report."""
        if isinstance(message, Abort):
            self._scheduler.abort(message.request_id)
            return
        try:
            self._scheduler.add(message.spec)
        except HeadraceError as error:
            self._scheduler.refuse(message.spec.request_id, error.message)

    def inspect(self) -> tuple[AnswerActivity, ...]:
        """What runs and what waits, and why."""
        return self._scheduler.inspect()

    def step(self) -> StepReport:
        """Compute some tokens of some requests.

        Raises: whatever the runner raises; the engine cannot go on then.
        """
        output = self._scheduler.schedule()
        self._runner.submit(output)
        return self._scheduler.update(output, self._runner.collect())


def make_engine(
    config: EngineConfig,
    capacity: Capacity,
    runner: Runner,
    clock: Clock,
    drafter: Drafter | None = None,
) -> Engine:
    """An engine for what fits."""
    limits = scheduler_limits(config, capacity.max_model_len)
    if drafter is not None:
        limits = replace(limits, num_lookahead_tokens=LOOKAHEAD_TOKENS)
    kv_cache = KVCacheManager(
        capacity.num_blocks, capacity.block_size, config.enable_prefix_caching
    )
    if config.speculative != "off":
        runner = DraftingRunner(runner, clock, config.looks_up_all, drafter)
    return Engine(Scheduler(limits, kv_cache, clock, config.policy), runner)


def make_drafter(started: StartedModel) -> Drafter | None:
    """The draft model of a started one, if it has one."""
    draft = started.draft
    if draft is None:
        return None
    vocab_size = started.config.vocab_size
    model = DraftModel(draft.model, draft.cache, started.ops, vocab_size, started.is_eager)
    return Drafter(model, draft.pass_ratio)


def scheduler_limits(config: EngineConfig, max_model_len: int) -> SchedulerLimits:
    """What a step and the queue may hold. `max_model_len` is what fits."""
    return SchedulerLimits(
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_num_seqs=config.max_num_seqs,
        max_mixed_prompt_tokens=config.max_mixed_prompt_tokens,
        max_mixed_background_tokens=config.max_mixed_background_tokens,
        max_waiting_requests=config.max_waiting_requests,
        max_model_len=max_model_len,
    )
