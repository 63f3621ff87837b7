"""What answers of the Responses API are made of: the response, its items and its events.

In: records of `core`. Out: msgspec structs that encode to the wire form, every key of it present.
Input items are plain objects in their wire form and belong to `response_items`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from headrace.core.receipt import Receipt
from headrace.core.responses import ResponseStatus
from headrace.core.usage import Usage
from headrace.server.openai_payloads import ChatLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(msgspec.Struct, frozen=True):
    text: str
    type: Literal["output_text"] = "output_text"
    annotations: tuple[()] = ()
    logprobs: Sequence[ChatLogprob] | UnsetType = UNSET


class MessageItem(msgspec.Struct, frozen=True):
    id: str
    status: ItemStatus
    content: Sequence[OutputText]
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


class ReasoningText(msgspec.Struct, frozen=True):
    text: str
    type: Literal["reasoning_text"] = "reasoning_text"


class ReasoningItem(msgspec.Struct, frozen=True):
    id: str
    status: ItemStatus
    content: Sequence[ReasoningText]
    type: Literal["reasoning"] = "reasoning"
    summary: tuple[()] = ()
    encrypted_content: str | UnsetType = UNSET


class FunctionCallItem(msgspec.Struct, frozen=True):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    type: Literal["function_call"] = "function_call"


OutputItem = MessageItem | ReasoningItem | FunctionCallItem


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseFailure(msgspec.Struct, frozen=True):
    code: Literal["server_error", "rate_limit_exceeded"]
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    reason: Literal["max_output_tokens", "content_filter"]


class ResponseBody(msgspec.Struct, frozen=True, kw_only=True):
    """The response object: the 31 keys that Open Responses asks for, and `user`.

    The last three are there where the body asks for them, once the answer has ended.
    """

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: ResponseStatus
    incomplete_details: IncompleteDetails | None = None
    model: str
    previous_response_id: str | None
    instructions: str | None
    output: Sequence[OutputItem] = ()
    error: ResponseFailure | None = None
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    truncation: Literal["auto", "disabled"]
    parallel_tool_calls: bool
    text: Mapping[str, Any]
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: Mapping[str, Any]
    usage: ResponseUsage | None = None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: Mapping[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None
    user: str | None
    receipt: Receipt | UnsetType = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    token_ids: Sequence[int] | UnsetType = UNSET


class LifeEvent(msgspec.Struct, frozen=True):
    type: str
    sequence_number: int
    response: ResponseBody


class ItemEvent(msgspec.Struct, frozen=True):
    type: str
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(msgspec.Struct, frozen=True):
    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: OutputText | ReasoningText


class TextDelta(msgspec.Struct, frozen=True):
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: Sequence[ChatLogprob]
    type: str = "response.output_text.delta"


class TextDone(msgspec.Struct, frozen=True):
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    logprobs: Sequence[ChatLogprob]
    type: str = "response.output_text.done"


class ReasoningDelta(msgspec.Struct, frozen=True):
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    type: str = "response.reasoning_text.delta"


class ReasoningDone(msgspec.Struct, frozen=True):
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    text: str
    type: str = "response.reasoning_text.done"


class ArgumentsDelta(msgspec.Struct, frozen=True):
    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    type: str = "response.function_call_arguments.delta"


class ArgumentsDone(msgspec.Struct, frozen=True):
    sequence_number: int
    item_id: str
    output_index: int
    name: str
    arguments: str
    type: str = "response.function_call_arguments.done"


class ErrorDetail(msgspec.Struct, frozen=True):
    type: str
    code: str | None
    message: str
    param: str | None


class ErrorEvent(msgspec.Struct, frozen=True):
    """Nested as Open Responses has it, flat as the `openai` client's type has it."""

    sequence_number: int
    error: ErrorDetail
    code: str | None
    message: str
    param: str | None
    type: str = "error"


Event = (
    LifeEvent
    | ItemEvent
    | PartEvent
    | TextDelta
    | TextDone
    | ReasoningDelta
    | ReasoningDone
    | ArgumentsDelta
    | ArgumentsDone
    | ErrorEvent
)


def make_response_usage(usage: Usage) -> ResponseUsage:
    """Word the token counts as the Responses API does."""
    return ResponseUsage(
        input_tokens=usage.input_tokens,
        input_tokens_details=InputTokensDetails(usage.cached_input_tokens),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputTokensDetails(usage.reasoning_tokens),
        total_tokens=usage.total_tokens,
    )
