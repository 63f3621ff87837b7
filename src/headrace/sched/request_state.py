"""One request as the scheduler sees it: what was asked, how far it is, which blocks it has.

In: RequestSpec, a frozen order of token ids and limits. `RequestState` has one writer, the
scheduler; others see SchedulerOutput and StepReport. Knows nothing of text.
"""

from __future__ import annotations

from enum import Enum

from headrace.cache.block_table import BlockTable
from headrace.core.frozen import frozen
from headrace.core.request import Pooling, SamplingParams
from headrace.core.step import NewRequest


class RequestStatus(Enum):
    """Where a request is kept: in the queue, among the running, or nowhere."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@frozen(kw_only=True)
class RequestSpec:
    """One answer to generate. Plain data, so that it can cross a process boundary.

    `max_tokens` is resolved. `eos_token_ids` is empty when they are to be ignored.
    `seed` is unsigned 64 bit. `priority`: lower runs earlier. `is_background`: with what is left.
    `output_token_ids` and `num_prompt_logprobs` are what the answer has already, from an engine
    that ended: it goes on after them as a preempted request does. `predicted_token_ids` are what
    the caller thinks the answer will be like. `adapter` is the digest of the one it runs with, or
    "": its keys and values are another's than those of the base.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    seed: int
    max_tokens: int
    eos_token_ids: tuple[int, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    priority: int = 0
    is_background: bool = False
    tenant: str = "default"
    cache_salt: str = ""
    pooling: Pooling | None = None
    output_token_ids: tuple[int, ...] = ()
    num_prompt_logprobs: int = 0
    predicted_token_ids: tuple[int, ...] = ()
    adapter: str = ""


class RequestState:
    """Progress of a request: `num_computed_tokens` catching up with `token_ids`.

    token_ids    | prompt ................ | output ........ | draft_token_ids
    computed     |----------- num_computed_tokens
    pending                               |------------------|  a step computes some of these

    Draft tokens are guesses of what follows. A request that has caught up but for its last token
    may compute them with it; those that are then chosen become output.
    """

    __slots__ = (
        "block_table",
        "decode_compute_s",
        "draft_token_ids",
        "ending_token_ids",
        "is_known_to_runner",
        "is_synchronous",
        "max_num_tokens",
        "min_num_tokens",
        "num_accepted_tokens",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_draft_tokens",
        "num_preemptions",
        "num_prompt_logprobs",
        "num_prompt_tokens",
        "prefill_compute_s",
        "queued_at_s",
        "rank",
        "scheduled_at_s",
        "spec",
        "status",
        "token_ids",
    )

    def __init__(
        self,
        spec: RequestSpec,
        block_table: BlockTable,
        rank: tuple[int, ...],
        max_num_tokens: int,
        queued_at_s: float,
    ) -> None:
        """Start with nothing computed. `max_num_tokens` limits prompt and output together."""
        self.spec = spec
        self.block_table = block_table
        self.rank = rank
        self.queued_at_s = queued_at_s
        self.scheduled_at_s: float | None = None
        self.status = RequestStatus.WAITING
        self.token_ids = [*spec.prompt_token_ids, *spec.output_token_ids]
        self.num_prompt_tokens = len(spec.prompt_token_ids)
        self.max_num_tokens = min(max_num_tokens, self.num_prompt_tokens + spec.max_tokens)
        self.min_num_tokens = self.num_prompt_tokens + spec.sampling.min_tokens
        self.ending_token_ids = frozenset((*spec.eos_token_ids, *spec.sampling.stop_token_ids))
        self.draft_token_ids: tuple[int, ...] = ()
        self.num_draft_tokens = self.num_accepted_tokens = 0
        self.prefill_compute_s = self.decode_compute_s = 0.0
        self.num_computed_tokens = 0
        self.num_cached_tokens = 0
        self.num_preemptions = 0
        self.num_prompt_logprobs = spec.num_prompt_logprobs
        self.is_known_to_runner = False
        # What follows a token is not known before it: a mask, a guess, something told with it.
        self.is_synchronous = bool(spec.predicted_token_ids) or not self.to_new_request().is_plain

    @property
    def request_id(self) -> str:
        return self.spec.request_id

    @property
    def has_begun(self) -> bool:
        """Whether it ran before, here or in an engine that ended."""
        spec = self.spec
        is_resumed = bool(spec.output_token_ids or spec.num_prompt_logprobs)
        return is_resumed or self.scheduled_at_s is not None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_pending_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def needs_every_position(self) -> bool:
        """Tell whether no position may come from the prefix cache."""
        return self.wants_prompt_logprobs or self.spec.pooling == "mean"

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Tell whether prompt logprobs are asked for and not complete. The first token has none."""
        is_asked = self.spec.sampling.prompt_logprobs is not None
        return is_asked and self.num_prompt_logprobs < self.num_prompt_tokens - 1

    def num_logit_rows(self, num_scheduled_tokens: int) -> int:
        """Count the trailing tokens of the next chunk whose logits are wanted.

        The last known token chooses the next one. A prompt position before it, while its logprob
        has not been delivered (a preempted request computes some positions twice), scores the
        token that follows it.
        """
        if self.spec.pooling == "mean":
            return num_scheduled_tokens
        end = self.num_computed_tokens + num_scheduled_tokens
        if self.wants_prompt_logprobs:
            return max(0, end - max(self.num_computed_tokens, self.num_prompt_logprobs))
        return int(end == self.num_tokens)

    def to_new_request(self) -> NewRequest:
        """Describe the constant part to the executor."""
        return NewRequest(
            request_id=self.spec.request_id,
            prompt_token_ids=self.spec.prompt_token_ids,
            sampling=self.spec.sampling,
            seed=self.spec.seed,
            stop_token_ids=tuple(sorted(self.ending_token_ids)),
            bad_words_ids=self.spec.bad_words_ids,
            pooling=self.spec.pooling,
            output_token_ids=self.spec.output_token_ids,
            predicted_token_ids=self.spec.predicted_token_ids,
            max_num_tokens=self.max_num_tokens,
            adapter=self.spec.adapter,
            tenant=self.spec.tenant,
            cache_salt=self.spec.cache_salt,
        )
