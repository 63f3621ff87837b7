"""What OpenAI answers are made of: usage, log-probabilities and choices as msgspec structs.

In: records of `core`. Out: structs that encode to the wire form; UNSET keys are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from headrace.core.errors import BackendError
from headrace.core.output import CompletionDelta, PositionLogprobs, TokenLogprob, ToolCallDelta
from headrace.core.receipt import Receipt
from headrace.core.usage import Usage

encode = msgspec.json.Encoder().encode

# JSON has no infinity; clients read this as "as good as impossible", as in OpenAI's own answers.
MIN_LOGPROB = -9999.0

PromptLogprobsBody = list[dict[str, "PromptLogprob"] | None]


class PromptTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    text_tokens: int
    cache_write_tokens: int = 0
    audio_tokens: int = 0
    image_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int
    text_tokens: int
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0
    audio_tokens: int = 0


class UsageBody(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ChatTopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    content: list[ChatLogprob]
    refusal: None = None


class PromptLogprob(msgspec.Struct, frozen=True):
    logprob: float
    rank: int
    decoded_token: str


class FunctionCallBody(msgspec.Struct, frozen=True):
    name: str | UnsetType = UNSET
    arguments: str = ""


class ToolCallBody(msgspec.Struct, frozen=True):
    """A call; `index` is sent in chunks only, and chunks send id, type and name once."""

    function: FunctionCallBody
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    index: int | UnsetType = UNSET


class ChatMessageBody(msgspec.Struct, frozen=True):
    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[ToolCallBody] | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: ChatMessageBody
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody
    system_fingerprint: str
    object: str = "chat.completion"
    service_tier: str | UnsetType = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobsBody | UnsetType = UNSET
    receipt: Receipt | UnsetType = UNSET


class ChatDelta(msgspec.Struct, frozen=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCallBody] | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: Sequence[int] | UnsetType = UNSET


class ChatChunk(msgspec.Struct, frozen=True):
    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    system_fingerprint: str
    object: str = "chat.completion.chunk"
    service_tier: str | UnsetType = UNSET
    usage: UsageBody | UnsetType | None = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobsBody | UnsetType = UNSET
    receipt: Receipt | UnsetType = UNSET


class CompletionLogprobs(msgspec.Struct, frozen=True):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: Sequence[int] | UnsetType = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobsBody | UnsetType = UNSET


class Completion(msgspec.Struct, frozen=True):
    """Whole answers and chunks have the same form; chunks have usage on demand."""

    id: str
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    object: str = "text_completion"
    usage: UsageBody | UnsetType | None = UNSET
    receipt: Receipt | UnsetType = UNSET


def make_usage(usage: Usage, is_predicted: bool = False) -> UsageBody:
    """Word the token counts as OpenAI does.

    Guesses are shown to callers who made one. Those that were wrong are in no total: OpenAI bills
    them, and here they depend on how busy the engine is.
    """
    return UsageBody(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=usage.cached_input_tokens, text_tokens=usage.input_tokens
        ),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=usage.reasoning_tokens,
            text_tokens=usage.output_tokens,
            accepted_prediction_tokens=usage.accepted_draft_tokens if is_predicted else 0,
            rejected_prediction_tokens=usage.rejected_draft_tokens if is_predicted else 0,
        ),
    )


def make_chat_logprobs(
    positions: Sequence[PositionLogprobs], num_top: int, shows_ids: bool
) -> ChatLogprobs:
    """Word positions as chat does: `num_top` alternatives each, the chosen one not forced in."""
    content = []
    for position in positions:
        chosen = position.chosen
        content.append(
            ChatLogprob(
                token_text(chosen, shows_ids),
                finite(chosen.logprob),
                list(chosen.bytes),
                [
                    ChatTopLogprob(token_text(top, shows_ids), finite(top.logprob), list(top.bytes))
                    for top in position.top[:num_top]
                ],
            )
        )
    return ChatLogprobs(content)


def make_completion_logprobs(
    positions: Sequence[PositionLogprobs | None],
    texts: Sequence[str],
    offset: int,
    shows_ids: bool,
) -> CompletionLogprobs:
    """Word positions as text completions do; None is a token without a log-probability.

    Units: `offset` and `text_offset` in characters of the choice's text.
    """
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    tops: list[dict[str, float] | None] = []
    offsets: list[int] = []
    for position, text in zip(positions, texts, strict=True):
        offsets.append(offset)
        offset += len(text)
        if position is None:
            tokens.append(text)
            token_logprobs.append(None)
            tops.append(None)
            continue
        tokens.append(token_text(position.chosen, shows_ids))
        token_logprobs.append(finite(position.chosen.logprob))
        tops.append(_top_map(position, shows_ids))
    return CompletionLogprobs(tokens, token_logprobs, tops, offsets)


def _top_map(position: PositionLogprobs, shows_ids: bool) -> dict[str, float]:
    """The most likely tokens and the chosen one; of equal texts the likeliest stays."""
    tops: dict[str, float] = {}
    for top in (*position.top, position.chosen):
        tops.setdefault(token_text(top, shows_ids), finite(top.logprob))
    return tops


def make_prompt_logprobs(positions: Sequence[PositionLogprobs | None]) -> PromptLogprobsBody:
    """Word prompt positions as vLLM does: a map from token id, null for the first token."""
    return [
        None
        if position is None
        else {
            str(token.token_id): PromptLogprob(finite(token.logprob), token.rank, token.token)
            for token in (*position.top, position.chosen)
        }
        for position in positions
    ]


def token_text(token: TokenLogprob, shows_ids: bool) -> str:
    return f"token_id:{token.token_id}" if shows_ids else token.token


def finite(logprob: float) -> float:
    return max(logprob, MIN_LOGPROB)


def make_tool_call(call: ToolCallDelta, in_chunk: bool) -> ToolCallBody:
    """Word a call, or what a chunk adds to it."""
    is_first = call.id is not None
    return ToolCallBody(
        FunctionCallBody(call.name or UNSET, call.arguments),
        id=call.id or UNSET,
        type="function" if is_first else UNSET,
        index=call.index if in_chunk else UNSET,
    )


def check_delta(delta: CompletionDelta) -> CompletionDelta:
    """Raises: BackendError when the backend gave up on the answer."""
    if delta.finish_reason in ("abort", "error"):
        raise BackendError("The model stopped before the answer was complete.")
    return delta


def sum_usage(latest: Sequence[Usage]) -> Usage:
    """Add up the requests of one call."""
    return sum(latest, Usage())
