"""Engine: one step is schedule -> execute -> update.

In: Submit and Abort. Out: StepReport. Belongs to one thread. Knows nothing of text, threads or
channels.
"""

from __future__ import annotations

from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.activity import AnswerActivity
from headrace.core.clock import Clock
from headrace.core.config import EngineConfig
from headrace.core.errors import HeadraceError
from headrace.core.step import StepReport
from headrace.engine.messages import Abort, Submit
from headrace.executor.drafting_runner import DraftingRunner, Runner
from headrace.executor.memory import Capacity
from headrace.sched.scheduler import Scheduler
from headrace.sched.token_budget import SchedulerLimits


class Engine:
    """A scheduler and a runner."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner

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


def make_engine(config: EngineConfig, capacity: Capacity, runner: Runner, clock: Clock) -> Engine:
    """An engine for what fits."""
    limits = scheduler_limits(config, capacity.max_model_len)
    kv_cache = KVCacheManager(
        capacity.num_blocks, capacity.block_size, config.enable_prefix_caching
    )
    if config.speculative != "off":
        is_for_all = config.speculative == "prompt-lookup"
        runner = DraftingRunner(runner, clock, is_for_all)
    return Engine(Scheduler(limits, kv_cache, clock, config.policy), runner)


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
