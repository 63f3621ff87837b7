"""The real scheduler, block cache and runner around a model, one step at a time, without threads.

In: requests as token ids, limits, when each arrives. Out: what each request got, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.core.clock import SystemClock
from headrace.core.request import Pooling, SamplingParams
from headrace.core.step import StepReport, TokenLogprobs
from headrace.engine.engine import Engine
from headrace.executor.adapter_table import AdapterTable
from headrace.executor.drafting_runner import Runner
from headrace.executor.model_runner import ModelRunner
from headrace.models.llama import Llama
from headrace.ops.protocol import KVCacheDtype
from headrace.sampling.logits_rule import LogitsRules
from headrace.sched.request_state import RequestSpec
from headrace.sched.scheduler import Scheduler
from headrace.sched.token_budget import SchedulerLimits


@dataclass(frozen=True)
class Asked:
    """A request: name, prompt, how tokens are chosen. `seed` as the engine resolves it.

    With `pooling` a vector is asked for, and no tokens.
    `output` and `num_prompt_logprobs` are what another engine has delivered of it.
    """

    name: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    max_tokens: int = 12
    seed: int = 7
    pooling: Pooling | None = None
    output: tuple[int, ...] = ()
    num_prompt_logprobs: int = 0
    predicted: tuple[int, ...] = ()
    adapter: str = ""
    is_background: bool = False

    def spec(self) -> RequestSpec:
        return RequestSpec(
            request_id=self.name,
            prompt_token_ids=self.prompt,
            sampling=self.sampling,
            seed=self.seed,
            max_tokens=self.max_tokens,
            pooling=self.pooling,
            output_token_ids=self.output,
            num_prompt_logprobs=self.num_prompt_logprobs,
            predicted_token_ids=self.predicted,
            adapter=self.adapter,
            is_background=self.is_background,
        )


@dataclass
class Answer:
    """What a request got. Two are equal when every token and every bit of logprobs is."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    error: str | None = None
    vector: tuple[float, ...] | None = None
    num_draft_tokens: int = field(default=0, compare=False)
    num_accepted_tokens: int = field(default=0, compare=False)
    num_cached_tokens: int = field(default=0, compare=False)
    num_preemptions: int = field(default=0, compare=False)
    is_finished: bool = field(default=False, compare=False)
    finish_reason: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Setting:
    """Limits of a run."""

    max_num_batched_tokens: int = 512
    max_num_seqs: int = 32
    num_blocks: int = 64
    block_size: int = 32
    has_prefix_cache: bool = True
    kv_cache_dtype: KVCacheDtype = "bf16"
    is_eager: bool = False
    drafts: Callable[[ModelRunner], Runner] | None = None
    num_lookahead_tokens: int = 0
    max_mixed_background_tokens: int = 0


class EngineDriver:
    """One engine; its cache outlives the calls of `generate`, as a server's does."""

    def __init__(
        self,
        model: Llama,
        setting: Setting | None = None,
        rules: LogitsRules | None = None,
        adapters: AdapterTable | None = None,
    ) -> None:
        setting = setting or Setting()
        size = setting.block_size
        cache = model.ops.allocate_kv(
            model.config.attention, setting.num_blocks, size, setting.kv_cache_dtype
        )
        self.runner = ModelRunner(model, cache, model.ops, setting.is_eager, rules, adapters)
        self._driven: Runner = setting.drafts(self.runner) if setting.drafts else self.runner
        self.manager = KVCacheManager(setting.num_blocks, size, setting.has_prefix_cache)
        limits = SchedulerLimits(
            max_num_batched_tokens=max(setting.max_num_batched_tokens, 1),
            max_num_seqs=min(setting.max_num_seqs, setting.max_num_batched_tokens),
            max_waiting_requests=1000,
            max_model_len=model.config.max_model_len,
            num_lookahead_tokens=setting.num_lookahead_tokens,
            max_mixed_background_tokens=setting.max_mixed_background_tokens,
        )
        self.scheduler = Scheduler(limits, self.manager, SystemClock())
        self.engine = Engine(self.scheduler, self._driven)

    def generate(
        self,
        asked: Sequence[Asked],
        arrivals: Mapping[str, int] | None = None,
        max_steps: int | None = None,
    ) -> dict[str, Answer]:
        """Run requests to their ends. `arrivals`: steps before a request comes, 0 if not named.

        After `max_steps` the engine is left as it is, and with it what it computed.
        """
        answers = {request.name: Answer() for request in asked}
        waiting = sorted(asked, key=lambda request: (arrivals or {}).get(request.name, 0))
        step = 0
        while step != max_steps and (waiting or self.engine.has_work):
            while waiting and (arrivals or {}).get(waiting[0].name, 0) <= step:
                self.scheduler.add(waiting.pop(0).spec())
            self._take(self.engine.step(), answers)
            step += 1
        self.scheduler.check_integrity()
        return answers

    def _take(self, report: StepReport, answers: Mapping[str, Answer]) -> None:
        for progress in report.progress:
            answer = answers[progress.request_id]
            answer.token_ids += progress.new_token_ids
            answer.logprobs += progress.logprobs
            answer.prompt_logprobs += progress.prompt_logprobs
            answer.error = progress.error
            answer.vector = progress.vector or answer.vector
            answer.is_finished = progress.finish_reason is not None
            answer.finish_reason = progress.finish_reason
            answer.num_draft_tokens = progress.num_draft_tokens
            answer.num_accepted_tokens = progress.num_accepted_tokens
            answer.num_cached_tokens = progress.num_cached_tokens
            answer.num_preemptions = progress.num_preemptions
