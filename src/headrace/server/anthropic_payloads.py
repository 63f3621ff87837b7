"""What Anthropic answers are made of: messages, content blocks, usage and stream events.

In: records of `core`. Out: structs that encode to the wire form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from headrace.core.receipt import Receipt
from headrace.core.usage import Usage

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class OutputTokensDetails(msgspec.Struct, frozen=True):
    thinking_tokens: int


class MessageUsage(msgspec.Struct, frozen=True):
    """`input_tokens` are those that no cache had.

    Every prefix is kept without being asked for, so that no token counts as written on request.
    """

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    output_tokens_details: OutputTokensDetails
    cache_creation_input_tokens: int = 0
    service_tier: str | UnsetType = UNSET


class TextBlock(msgspec.Struct, frozen=True):
    text: str
    type: str = "text"
    citations: None = None


class ThinkingBlock(msgspec.Struct, frozen=True):
    """The signature is opaque, and not looked at when it is sent back."""

    thinking: str
    signature: str = ""
    type: str = "thinking"


class ToolUseBlock(msgspec.Struct, frozen=True):
    id: str
    name: str
    input: dict[str, Any]
    type: str = "tool_use"


ContentBlock = TextBlock | ThinkingBlock | ToolUseBlock


class MessageBody(msgspec.Struct, frozen=True):
    """The last three are ours, and there where the body asks for them."""

    id: str
    model: str
    content: list[ContentBlock]
    usage: MessageUsage
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    type: str = "message"
    role: str = "assistant"
    stop_details: None = None
    receipt: Receipt | UnsetType = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    token_ids: Sequence[int] | UnsetType = UNSET


class MessageStart(msgspec.Struct, frozen=True):
    message: MessageBody
    type: str = "message_start"


class BlockStart(msgspec.Struct, frozen=True):
    index: int
    content_block: ContentBlock
    type: str = "content_block_start"


class TextDelta(msgspec.Struct, frozen=True):
    text: str
    type: str = "text_delta"


class ThinkingDelta(msgspec.Struct, frozen=True):
    thinking: str
    type: str = "thinking_delta"


class SignatureDelta(msgspec.Struct, frozen=True):
    signature: str
    type: str = "signature_delta"


class InputJsonDelta(msgspec.Struct, frozen=True):
    partial_json: str
    type: str = "input_json_delta"


Delta = TextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class BlockDelta(msgspec.Struct, frozen=True):
    index: int
    delta: Delta
    type: str = "content_block_delta"


class BlockStop(msgspec.Struct, frozen=True):
    index: int
    type: str = "content_block_stop"


class StopDelta(msgspec.Struct, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None
    stop_details: None = None


class MessageDelta(msgspec.Struct, frozen=True):
    delta: StopDelta
    usage: MessageUsage
    type: str = "message_delta"
    receipt: Receipt | UnsetType = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    token_ids: Sequence[int] | UnsetType = UNSET


class MessageStop(msgspec.Struct, frozen=True):
    type: str = "message_stop"


class Ping(msgspec.Struct, frozen=True):
    type: str = "ping"


class TokenCount(msgspec.Struct, frozen=True):
    input_tokens: int


Event = MessageStart | BlockStart | BlockDelta | BlockStop | MessageDelta | MessageStop | Ping


def make_usage(usage: Usage, service_tier: str | UnsetType = UNSET) -> MessageUsage:
    """Word the token counts as Anthropic does: the parts of the input do not overlap."""
    return MessageUsage(
        input_tokens=usage.input_tokens - usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_input_tokens=usage.cached_input_tokens,
        output_tokens_details=OutputTokensDetails(usage.reasoning_tokens),
        service_tier=service_tier,
    )
