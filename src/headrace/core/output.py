"""What comes back: deltas of text, tokens and logprobs, and the numbers of a finished request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headrace.core.usage import Usage

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability. `rank` is 1 for the most likely. `bytes` is exact."""

    token_id: int
    token: str
    bytes: bytes
    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """The token at a position and the most likely ones there, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionDelta:
    """What answer `index` gained. `stop_reason` is the stop text or stop token id that ended it."""

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """Units: seconds. Queue until first scheduled; prefill until first token; decode after it."""

    queue_s: float
    prefill_s: float
    decode_s: float
    num_preemptions: int = 0


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """One step of a request's stream.

    `usage` is the running total over all answers. Prompt fields come with the first output:
    `prompt_text` and `prompt_tokens` (the text of each token) when `return_prompt_text` asks.
    `times` comes with the last, when `is_finished`.
    """

    request_id: str
    deltas: tuple[CompletionDelta, ...]
    usage: Usage
    is_finished: bool = False
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_logprobs: tuple[PositionLogprobs | None, ...] | None = None
    times: RequestTimes | None = None
    prompt_text: str | None = None
    prompt_tokens: tuple[str, ...] | None = None
