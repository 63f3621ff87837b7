"""Short ways to make specs and schedulers, and to run them to the end over a FakeRunner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fakes.fake_clock import FakeClock
from fakes.fake_device import FakeDevice
from fakes.fake_runner import FakeRunner, expected_output
from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.request import SamplingParams
from headrace.core.step import StepReport, TokenLogprobs
from headrace.engine.engine import Engine
from headrace.executor.drafting_runner import Runner
from headrace.sched.request_state import RequestSpec
from headrace.sched.scheduler import Scheduler
from headrace.sched.token_budget import SchedulerLimits


def make_spec(
    request_id: str, prompt: tuple[int, ...], max_tokens: int = 8, **changes: Any
) -> RequestSpec:
    sampling_names = ("min_tokens", "stop_token_ids", "prompt_logprobs", "logprobs")
    sampling = {name: changes.pop(name) for name in sampling_names if name in changes}
    values: dict[str, Any] = {
        "request_id": request_id,
        "prompt_token_ids": prompt,
        "sampling": SamplingParams(max_tokens=max_tokens, **sampling),
        "seed": 7,
        "max_tokens": max_tokens,
    }
    return RequestSpec(**(values | changes))


@dataclass
class Answer:
    """Everything reported about a request."""

    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None
    stop_token_id: int | None = None
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass
class Bench:
    """A scheduler and a FakeRunner, stepped by hand. Integrity is checked after every step.

    With `is_ahead` the runner is behind: a step is planned while the last one is on its way.
    """

    num_blocks: int = 64
    block_size: int = 4
    max_num_batched_tokens: int = 32
    max_num_seqs: int = 8
    max_mixed_prompt_tokens: int | None = None
    max_mixed_background_tokens: int = 0
    max_waiting_requests: int = 1000
    max_model_len: int = 1000
    num_lookahead_tokens: int = 0
    policy: str = "fcfs"
    has_prefix_cache: bool = True
    vocab_size: int = 1000
    drafts: Callable[[Runner], Runner] | None = None
    is_ahead: bool = False
    answers: dict[str, Answer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.kv_cache = KVCacheManager(self.num_blocks, self.block_size, self.has_prefix_cache)
        limits = SchedulerLimits(
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_num_seqs=self.max_num_seqs,
            max_mixed_prompt_tokens=self.max_mixed_prompt_tokens,
            max_mixed_background_tokens=self.max_mixed_background_tokens,
            max_waiting_requests=self.max_waiting_requests,
            max_model_len=self.max_model_len,
            num_lookahead_tokens=self.num_lookahead_tokens,
        )
        self.scheduler = Scheduler(limits, self.kv_cache, self.clock, self.policy)
        self.runner = FakeRunner(self.block_size, self.vocab_size)
        guessing = self.drafts(self.runner) if self.drafts else self.runner
        self.device = FakeDevice(self.runner, self.kv_cache.pool) if self.is_ahead else None
        self.engine = Engine(self.scheduler, self.device or guessing)

    def add(self, *specs: RequestSpec) -> None:
        for spec in specs:
            self.scheduler.add(spec)

    def step(self) -> StepReport:
        report = self.engine.step()
        assert self.runner.steps[-1].num_scheduled_tokens <= self.max_num_batched_tokens
        self._take(report)
        return report

    def land(self) -> None:
        """Before an order: nothing is on its way."""
        report = self.engine.land()
        if report is not None:
            self._take(report)

    def _take(self, report: StepReport) -> None:
        self.scheduler.check_integrity()
        if self.device is not None:
            self.device.check_blocks()
        for progress in report.progress:
            answer = self.answers.setdefault(progress.request_id, Answer())
            assert answer.finish_reason is None, "reported after its end"
            answer.token_ids += progress.new_token_ids
            answer.logprobs += progress.logprobs
            answer.prompt_logprobs += progress.prompt_logprobs
            answer.finish_reason = progress.finish_reason
            answer.stop_token_id = progress.stop_token_id
            answer.num_cached_tokens = progress.num_cached_tokens
            answer.num_preemptions = progress.num_preemptions
            answer.num_draft_tokens = progress.num_draft_tokens
            answer.num_accepted_tokens = progress.num_accepted_tokens

    def run(self, max_num_steps: int = 10_000) -> dict[str, Answer]:
        """Step until nothing is left, and see that nothing is left."""
        for _ in range(max_num_steps):
            if not self.engine.has_work:
                break
            self.step()
        assert not self.engine.has_work, "no progress"
        assert self.kv_cache.usage == 0.0
        assert not self.runner.known
        return self.answers


def right(bench: Bench, name: str, prompt: tuple[int, ...], max_tokens: int = 8) -> bool:
    """Whether a request of `make_spec` got what an unlimited engine would answer."""
    return bench.answers[name].token_ids == expected_output(prompt, 7, max_tokens, 1000)
