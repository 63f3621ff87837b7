"""What comes back: deltas of text, tokens and logprobs, and the numbers of a finished request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from headrace.core.frozen import frozen
from headrace.core.receipt import ResolvedRequest
from headrace.core.usage import Usage

FinishReason = Literal["stop", "length", "abort", "error", "tool_calls", "repetition"]


@frozen
class TokenLogprob:
    """A token with its log-probability. `rank` is 1 for the most likely. `bytes` is exact."""

    token_id: int
    token: str
    bytes: bytes
    logprob: float
    rank: int


@frozen
class PositionLogprobs:
    """The token at a position and the most likely ones there, best first."""

    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


@frozen
class ToolCallDelta:
    """What call `index` of an answer gained. The first one has its id and name."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@frozen
class CompletionDelta:
    """What answer `index` gained. `stop_reason` is the stop text or stop token id that ended it.

    `text` is what is neither reasoning nor a call; its order is reasoning, text, calls. Tokens and
    logprobs are those of all three. `finish_reason` is tool_calls when the model ended the answer
    and it has calls.
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


@frozen
class RequestTimes:
    """Units: seconds. Queue until first scheduled; prefill until first token; decode after it.

    Others are computed meanwhile. The request's share of the engine's steps, each divided among its
    tokens, is `prefill_compute_s` for its prompt and `decode_compute_s` for its answers.
    """

    queue_s: float
    prefill_s: float
    decode_s: float
    prefill_compute_s: float
    decode_compute_s: float
    num_preemptions: int = 0


@frozen
class RequestOutput:
    """One step of a request's stream.

    `usage` is the running total over all answers. Prompt fields come with the first output:
    `prompt_text` and `prompt_tokens` (the text of each token) when `return_prompt_text` asks.
    `seed` is what its tokens were drawn with; None: nobody here knows. `resolved` comes with the
    first and the last; `times` and, where pooling asks for it, `vector`
    with the last, when `is_finished`.
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
    vector: tuple[float, ...] | None = None
    resolved: ResolvedRequest | None = None
    seed: int | None = None


def join_calls(deltas: Sequence[ToolCallDelta]) -> tuple[ToolCallDelta, ...]:
    """One delta per call, of an answer's deltas in their order."""
    joined: dict[int, ToolCallDelta] = {}
    for delta in deltas:
        known = joined.get(delta.index)
        if known is not None:
            arguments = known.arguments + delta.arguments
            delta = ToolCallDelta(delta.index, known.id, known.name, arguments)
        joined[delta.index] = delta
    return tuple(joined.values())
