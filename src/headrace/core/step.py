"""Records of one engine step: what the scheduler wants, what the executor found, what came of it.

Token ids and numbers only: no text, no arrays. What is made per request and step is a named tuple,
because a frozen dataclass takes five times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import NamedTuple

from headrace.core.frozen import frozen
from headrace.core.output import FinishReason
from headrace.core.request import Pooling, SamplingParams

UNKNOWN_TOKEN = -1
"""In the place of a token that the device chooses in the step before and the host has not seen."""

_UNUSED = SamplingParams()
_NOT_PLAIN = (
    "allowed_token_ids",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "presence_penalty",
    "prompt_logprobs",
    "repetition_penalty",
    "structured_outputs",
)
"""Parameters that a choice by logits, seed and place alone has no room for."""


@frozen
class NewRequest:
    """A request's constant part, sent to the executor the first time it is scheduled.

    `seed` is resolved (unsigned 64 bit). `bad_words_ids` are token sequences that
    may not be completed. `output_token_ids` were chosen before, by an engine that ended.
    `predicted_token_ids` are what the caller thinks the answer will be like.
    `max_num_tokens` bounds prompt and output together; None is not known. `adapter` is the
    digest of the one it runs with, or "". `tenant` and `cache_salt` are whose it is.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    sampling: SamplingParams
    seed: int
    stop_token_ids: Sequence[int] = ()
    bad_words_ids: Sequence[Sequence[int]] = ()
    pooling: Pooling | None = None
    output_token_ids: Sequence[int] = ()
    predicted_token_ids: Sequence[int] = ()
    max_num_tokens: int | None = None
    adapter: str = ""
    tenant: str = "default"
    cache_salt: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether its tokens are functions of logits, seed and place, and nothing else is told."""
        if self.pooling is not None or self.adapter or self.bad_words_ids:
            return False
        if self.sampling.min_tokens and self.stop_token_ids:
            return False
        return all(getattr(self.sampling, name) == getattr(_UNUSED, name) for name in _NOT_PLAIN)


class ScheduledRequest(NamedTuple):
    """The tokens one request computes in a step: positions [num_computed_tokens, + len(token_ids)).

    `block_ids` is the whole block table. `num_logit_rows` trailing tokens get logits; when
    `is_sampled`, the last of them chooses the next token. Rows before it feed prompt logprobs.

    The last `num_draft_tokens` of the tokens are guesses: the row before each one chooses the token
    that it guessed, and the first that is chosen differently ends what counts.

    UNKNOWN_TOKEN is what the step before chooses for the request.
    """

    request_id: str
    token_ids: Sequence[int]
    num_computed_tokens: int
    block_ids: Sequence[int]
    num_logit_rows: int
    is_sampled: bool
    num_draft_tokens: int = 0


@frozen
class SchedulerOutput:
    """One step's work. Finished requests are those the executor may forget before it.

    `block_copies` are made before anything else, one after the other: whole KV blocks, (from, to).
    """

    step_id: int
    scheduled: tuple[ScheduledRequest, ...]
    new_requests: tuple[NewRequest, ...] = ()
    finished_request_ids: tuple[str, ...] = ()
    block_copies: tuple[tuple[int, int], ...] = ()

    @property
    def num_scheduled_tokens(self) -> int:
        return sum(len(request.token_ids) for request in self.scheduled)


@frozen
class TokenLogprobs:
    """Chosen token's logprob and rank, and the top tokens with theirs, best first."""

    token_id: int
    logprob: float
    rank: int
    top_token_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


class RowOutput(NamedTuple):
    """What a scheduled request got. `prompt_logprobs` belong to its logit rows but the sampled one.

    `is_complete`: with its last token the answer has the form that was asked for, and nothing may
    follow; a pooled request is complete with its `vector`. `error` set means that no token can be
    chosen for it, ever: the request ends. `is_callers_fault`: what it asks for is why.

    There is one token more than drafts that were chosen. `draft_token_ids` are guesses of what
    comes after them, to be computed in the next step if there is room.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    error: str | None = None
    is_complete: bool = False
    vector: tuple[float, ...] | None = None
    draft_token_ids: tuple[int, ...] = ()
    is_callers_fault: bool = False


@frozen
class ModelRunnerOutput:
    """Per request id, for the requests of the step with the same id.

    `speed_up`: how much faster answers come with drafts, where an estimate is made.
    """

    step_id: int
    rows: Mapping[str, RowOutput]
    speed_up: float | None = None


class RequestProgress(NamedTuple):
    """What a step gave one request, for the output side.

    Times are `Clock.monotonic_s`; `finish_reason` set means it is over. `is_complete`: it ended
    with its form, so the last token is part of the answer and no stop token. Draft tokens are
    counted from its start: those that were computed, and of them those that the answer got.
    `is_callers_fault`: the caller can mend the `error`. Of `..._compute_s` see RequestTimes.
    """

    request_id: str
    new_token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    queued_at_s: float = 0.0
    scheduled_at_s: float | None = None
    error: str | None = None
    is_complete: bool = False
    vector: tuple[float, ...] | None = None
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    is_callers_fault: bool = False
    prefill_compute_s: float = 0.0
    decode_compute_s: float = 0.0


@frozen
class StepStats:
    """Counters since the last report (`num_new_*`) and gauges after the step.

    `num_background_*` are those of `num_running` and `num_waiting` that hold nobody up.
    `num_deferred` of `num_waiting` wait for a prefix that another one computes. `draft_speed_up`:
    of the last hundreds of steps, None without drafts.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_background_running: int = 0
    num_background_waiting: int = 0
    num_deferred: int = 0
    num_used_blocks: int = 0
    num_blocks: int = 0
    num_scheduled_tokens: int = 0
    num_new_preemptions: int = 0
    num_new_prefix_queries: int = 0
    num_new_prefix_hits: int = 0
    num_new_drafts: int = 0
    num_new_draft_tokens: int = 0
    num_new_accepted_tokens: int = 0
    step_s: float = 0.0
    draft_speed_up: float | None = None


@frozen
class StepReport:
    """Everything the output side needs to know of one step. `ended_at_s` is `Clock.monotonic_s`."""

    step_id: int
    progress: tuple[RequestProgress, ...]
    stats: StepStats = field(default_factory=StepStats)
    ended_at_s: float = 0.0
