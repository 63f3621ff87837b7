"""Engine: one step is schedule -> execute -> update; on a GPU the next one is scheduled before it.

In: Submit, Abort and orders. Out: StepReport. Belongs to one thread. Knows nothing of text, threads
or channels.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.activity import AnswerActivity
from headrace.core.adapters import AdapterFacts
from headrace.core.clock import Clock
from headrace.core.config import EngineConfig
from headrace.core.errors import HeadraceError, ModelFileError, RequestError, UnsupportedFormat
from headrace.core.step import SchedulerOutput, StepReport
from headrace.engine.error_record import to_record
from headrace.engine.messages import (
    Abort,
    AdapterLoaded,
    AdapterUnloaded,
    EngineOrder,
    LoadAdapter,
    OrderDone,
    PauseEngine,
    ResetPrefixes,
    Submit,
    UnloadAdapter,
)
from headrace.engine.started_model import StartedModel
from headrace.executor.draft_model import DraftModel
from headrace.executor.drafting_runner import Drafter, DraftingRunner, Runner
from headrace.executor.memory import Capacity
from headrace.executor.model_guesser import LOOKAHEAD_TOKENS
from headrace.sched.scheduler import Scheduler
from headrace.sched.token_budget import SchedulerLimits
from headrace.spec.past_answers import PastAnswers

if TYPE_CHECKING:
    from headrace.engine.ranks import Ranks

logger = logging.getLogger(__name__)


class Adapters(Protocol):
    """What the runner knows of adapters, by digest: executor.adapter_table."""

    def __contains__(self, sha256: str) -> bool: ...

    def load(self, path: Path) -> AdapterFacts:
        """Raises: ModelFileError, UnsupportedFormat, OutOfMemory."""
        ...

    def unload(self, sha256: str) -> None: ...


class Engine:
    """A scheduler, a runner, and the adapters that the runner knows."""

    def __init__(
        self, scheduler: Scheduler, runner: Runner, adapters: Adapters | None = None
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._adapters = adapters
        self._flying: SchedulerOutput | None = None
        self._leaving: dict[str, None] = {}
        # Pauses that wait for what still moves, oldest first.
        self._pausing: list[PauseEngine] = []

    @property
    def drafting(self) -> DraftingRunner | None:
        """What guesses, for measurements."""
        return self._runner if isinstance(self._runner, DraftingRunner) else None

    @property
    def has_work(self) -> bool:
        """Tell whether a step would compute, report or forget anything."""
        return self._flying is not None or self._scheduler.has_work

    def apply(self, message: Submit | Abort) -> None:
        """Take in a message. A request that is refused is told so in the next report."""
        if isinstance(message, Abort):
            self._scheduler.abort(message.request_id)
            return
        adapter = message.spec.adapter
        if adapter and (self._adapters is None or adapter not in self._adapters):
            gone = RequestError(
                "Its adapter was unloaded, or its files were changed, before the request could go "
                "on.",
                "model",
            )
            self._scheduler.refuse(message.spec.request_id, gone)
            return
        try:
            self._scheduler.add(message.spec)
        except HeadraceError as error:
            self._scheduler.refuse(message.spec.request_id, error)

    def load_adapter(self, message: LoadAdapter) -> AdapterLoaded:
        """Have an adapter in memory. Steps wait for it."""
        try:
            if self._adapters is None:
                raise UnsupportedFormat("This engine runs no adapters.")
            facts = self._adapters.load(Path(message.path))
        except HeadraceError as error:
            return AdapterLoaded(message.load_id, error=to_record(error))
        except Exception as failure:  # steps can go on: nothing of theirs has changed
            logger.exception("An adapter could not be read.")
            told = ModelFileError(f"{message.path} cannot be read: {failure}")
            return AdapterLoaded(message.load_id, error=to_record(told))
        self._leaving.pop(facts.sha256, None)
        return AdapterLoaded(
            message.load_id, facts.sha256, facts.rank, facts.num_bytes, facts.base_name
        )

    def unload_adapter(self, message: UnloadAdapter) -> None:
        """Let go of an adapter as soon as no request runs with it."""
        self._leaving[message.sha256] = None

    def retire_adapters(self) -> list[AdapterUnloaded]:
        """Let go of adapters that are to leave and that nobody runs with any more."""
        if not self._leaving:
            return []
        left = [name for name in self._leaving if name not in self._scheduler.adapters_in_use]
        for sha256 in left:
            del self._leaving[sha256]
            if self._adapters is not None:
                self._adapters.unload(sha256)
        return [AdapterUnloaded(sha256) for sha256 in left]

    def order(self, order: EngineOrder) -> list[OrderDone]:
        """Follow an order, and say which ones are done or overtaken by it. See `settle_pauses`.

        Nothing may be on its way: see `land`.
        """
        if isinstance(order, ResetPrefixes):
            is_done = self._scheduler.reset_prefixes(order.resets_running)
            return [OrderDone(order.order_id, is_done)]
        if isinstance(order, PauseEngine):
            self._scheduler.hold("everything" if order.keeps_running else "admissions")
            self._pausing.append(order)
            return []
        overtaken, self._pausing = self._pausing, []
        self._scheduler.hold(None)
        undone = [OrderDone(pause.order_id, is_done=False) for pause in overtaken]
        return [*undone, OrderDone(order.order_id, is_done=True)]

    def settle_pauses(self) -> list[OrderDone]:
        """Pauses that are reached: nothing moves any more, and all of it was told."""
        if not self._pausing or self.has_work:
            return []
        reached, self._pausing = self._pausing, []
        if any(pause.clears_cache for pause in reached):
            self._scheduler.reset_prefixes()
        return [OrderDone(pause.order_id, is_done=True) for pause in reached]

    def inspect(self) -> tuple[AnswerActivity, ...]:
        """What runs and what waits, and why."""
        return self._scheduler.inspect()

    def step(self) -> StepReport:
        """Compute some tokens of some requests.

        Where the runner runs ahead, the next step is on its way when this one is over.
        Raises: whatever the runner raises; the engine cannot go on then.
        """
        output, self._flying = self._flying, None
        if output is None:
            output = self._scheduler.schedule()
            self._runner.submit(output)
        if self._runner.runs_ahead:
            self._flying = self._scheduler.schedule_ahead(output)
            if self._flying is not None:
                self._runner.submit(self._flying)
        return self._scheduler.update(output, self._runner.collect())

    def land(self) -> StepReport | None:
        """Wait for the step that is on its way, if one is, with none behind it.

        Orders, and whatever changes the cache or the model, come between two steps.
        """
        if self._flying is None:
            return None
        output, self._flying = self._flying, None
        return self._scheduler.update(output, self._runner.collect())


def make_engine(
    config: EngineConfig,
    capacity: Capacity,
    runner: Runner,
    clock: Clock,
    drafter: Drafter | None = None,
    adapters: Adapters | None = None,
    ranks: Ranks | None = None,
) -> Engine:
    """An engine for what fits. `ranks`: the others that run each step too."""
    limits = scheduler_limits(config, capacity.max_model_len)
    if drafter is not None:
        limits = replace(limits, num_lookahead_tokens=LOOKAHEAD_TOKENS)
    kv_cache = KVCacheManager(
        capacity.num_blocks, capacity.block_size, config.enable_prefix_caching
    )
    if ranks is not None:
        runner = ranks.around(runner)
    if config.speculative != "off":
        past = PastAnswers(config.lookup_past_tokens) if config.lookup_past_tokens else None
        runner = DraftingRunner(runner, clock, config.looks_up_all, drafter, past)
    return Engine(Scheduler(limits, kv_cache, clock, config.policy), runner, adapters)


def make_drafter(started: StartedModel) -> Drafter | None:
    """The draft model of a started one, if it has one."""
    draft = started.draft
    if draft is None:
        return None
    vocab_size = started.config.vocab_size
    model = DraftModel(
        draft.model,
        draft.cache,
        started.ops,
        vocab_size,
        started.is_eager,
        is_rejecting=draft.is_rejecting,
    )
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
