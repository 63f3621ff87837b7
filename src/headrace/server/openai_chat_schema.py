"""The body of POST /v1/chat/completions: its fields, and its messages as `core` sees them.

In: a JSON object. Out: checked fields and `Message`s. Text parts of a message are joined by line
breaks; every other kind of part is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from headrace.core.errors import InvalidParameter, RequestError, UnsupportedParameter
from headrace.core.message import Message, ToolCall
from headrace.server.generation_schema import (
    NEUTRAL,
    REFUSED,
    GenerationFields,
    Objects,
    Strict,
    Texts,
    allowed,
    unknown_names,
    validate,
)

ServiceTier = Literal["auto", "default", "flex", "scale", "priority", "fast"]
_SERVICE_TIERS = "auto, default, flex, scale, priority or fast"


class ChatCompletionFields(GenerationFields):
    messages: Objects = Field(description="a list of at least one message object")
    include_reasoning: bool | None = allowed("true or false")
    max_completion_tokens: int | None = allowed("a whole number, 1 or more")
    logprobs: bool | None = allowed("true or false")
    top_logprobs: int | None = allowed("a whole number from 0 to 20")
    add_generation_prompt: bool | None = allowed("true or false")
    continue_final_message: bool | None = allowed("true or false")
    chat_template_kwargs: dict[str, Any] | None = allowed("an object")
    service_tier: ServiceTier | None = allowed(_SERVICE_TIERS)
    tools: list[Any] | None = allowed("a list of tools")
    tool_choice: str | dict[str, Any] | None = allowed("none, auto, required or an object")
    parallel_tool_calls: bool | None = allowed("true or false")
    prediction: dict[str, Any] | None = allowed("an object with type and content")
    modalities: Texts | None = allowed('["text"]')
    reasoning_effort: str | None = allowed("a string")
    verbosity: str | None = allowed("a string")
    store: bool | None = allowed("true or false")
    metadata: dict[str, Any] | None = allowed("at most 16 strings with names")
    prompt_cache_options: dict[str, Any] | None = allowed("an object with mode and ttl")
    prompt_cache_retention: Literal["in_memory", "24h"] | None = allowed("in_memory or 24h")


class FunctionFields(Strict):
    name: str = Field(description="the name of the function that was called")
    arguments: str = Field(description="the arguments as JSON text in a string")


class PredictionFields(Strict):
    type: Literal["content"] = Field(description="content")
    content: str | list[Any] = Field(description="a string or a list of text parts")


class ToolCallFields(Strict):
    id: str = Field(description="the id of the call")
    type: Literal["function"] = Field(default="function", description="function")
    function: dict[str, Any] = Field(description="an object with name and arguments")


class MessageFields(Strict):
    role: str = Field(description="system, developer, user, assistant or tool", min_length=1)
    content: str | list[Any] | None = allowed("a string, null, or a list of text parts")
    name: str | None = allowed("a string")
    tool_call_id: str | None = allowed("a string")
    tool_calls: Objects | None = allowed("a list of tool calls")
    reasoning_content: str | None = allowed("a string")
    reasoning: str | None = allowed("a string")
    thinking: str | None = allowed("a string")
    refusal: str | None = allowed("a string")
    function_call: dict[str, Any] | None = allowed("nothing; use tool_calls")
    audio: dict[str, Any] | None = allowed("nothing; this model takes text only")


# Served here, and refused where answers have text alone.
_SERVED = ("include_reasoning",)
CHAT_REFUSED: dict[str, str] = {k: v for k, v in REFUSED.items() if k not in _SERVED} | {
    "thinking_token_budget": "reasoning has no limit of its own. Use max_completion_tokens.",
    "audio": "this model gives text only. Leave it out.",
    "web_search_options": "there is no web search. Leave it out.",
    "moderation": "there is no moderation. Leave it out.",
    "functions": "the field is out of date. Use tools.",
    "function_call": "the field is out of date. Use tool_choice.",
    "documents": "put the documents into the messages.",
    "chat_template": "the model's own template is used. Leave it out.",
    "echo": "put the beginning of the answer in a last assistant message and set "
    "continue_final_message.",
    "mm_processor_kwargs": "this model takes text only. Leave it out.",
}
CHAT_NEUTRAL = NEUTRAL | {
    "echo": (False,),
    "functions": ([],),
    "function_call": ("none",),
    "documents": ([],),
}


def check_features(fields: ChatCompletionFields) -> None:
    """Refuse what this server cannot honour, by name.

    Raises: RequestError.
    """
    if fields.modalities is not None and fields.modalities != ["text"]:
        raise InvalidParameter("modalities", fields.modalities, '["text"]')
    check_metadata(fields.metadata)


def check_metadata(metadata: Mapping[str, Any] | None) -> None:
    """Raises: RequestError for too many pairs, too long ones, and values that are no strings."""
    given = metadata or {}
    if len(given) > 16:
        raise RequestError(
            f"metadata has {len(given)} pairs; allowed: at most 16.", "metadata", "invalid_value"
        )
    for key, value in given.items():
        if not isinstance(value, str):
            raise InvalidParameter("metadata", {key: value}, "at most 16 strings with names")
        if len(key) > 64 or len(value) > 512:
            raise RequestError(
                f"metadata has a name of {len(key)} and a value of {len(value)} characters; "
                "allowed: names up to 64 and values up to 512.",
                "metadata",
                "invalid_value",
            )


def is_continuation(continues: bool | None, adds_prompt: bool | None) -> bool:
    """Whether the answer goes on with the last message. Raises: InvalidParameter."""
    if continues and adds_prompt:
        allowed = "false when continue_final_message is true"
        raise InvalidParameter("add_generation_prompt", True, allowed)
    return bool(continues)


def parse_messages(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[tuple[Message, ...], list[str]]:
    """Make `Message`s, and name the keys that nobody defines.

    Raises: RequestError naming the message and the field.
    """
    if not messages:
        raise InvalidParameter("messages", [], "a list of at least one message object")
    parsed, unknown = [], []
    for index, body in enumerate(messages):
        prefix = f"messages[{index}]."
        fields = validate(MessageFields, body, prefix)
        unknown += unknown_names(fields, ("annotations",), prefix)
        parsed.append(_make_message(fields, prefix))
    return tuple(parsed), unknown + _answers_to_no_call(parsed)


def _answers_to_no_call(messages: Sequence[Message]) -> list[str]:
    """Results of tools that belong to no call before them; templates go by their order alone."""
    known: set[str] = set()
    names = []
    for index, message in enumerate(messages):
        if message.role == "tool" and message.tool_call_id not in known:
            names.append(f"messages[{index}].tool_call_id")
        known |= {call.id for call in message.tool_calls}
    return names


def parse_prediction(body: Mapping[str, Any] | None) -> tuple[str | None, list[str]]:
    """The text that the caller expects, and the keys that nobody defines.

    Raises: RequestError naming the field.
    """
    if body is None:
        return None, []
    fields = validate(PredictionFields, body, "prediction.")
    unknown = unknown_names(fields, (), "prediction.")
    if isinstance(fields.content, str):
        return fields.content, unknown
    parts = [
        _read_part(part, f"prediction.content[{index}]")
        for index, part in enumerate(fields.content)
    ]
    return "".join(parts), unknown


def _make_message(fields: MessageFields, prefix: str) -> Message:
    if fields.function_call is not None:
        raise UnsupportedParameter(
            f"{prefix}function_call", "the field is out of date. Use tool_calls."
        )
    if fields.audio is not None:
        raise UnsupportedParameter(f"{prefix}audio", "this model takes text only.")
    content = fields.content
    if isinstance(content, list):
        content = "\n".join(
            _read_part(part, f"{prefix}content[{index}]") for index, part in enumerate(content)
        )
    return Message(
        role="system" if fields.role == "developer" else fields.role,
        content=fields.refusal if content is None else content,
        name=fields.name,
        tool_calls=tuple(
            _read_tool_call(call, f"{prefix}tool_calls[{index}].")
            for index, call in enumerate(fields.tool_calls or ())
        ),
        tool_call_id=fields.tool_call_id,
        reasoning_content=fields.reasoning_content or fields.reasoning or fields.thinking,
    )


def _read_part(part: object, path: str) -> str:
    if not isinstance(part, Mapping):
        raise InvalidParameter(path, part, 'an object such as {"type": "text", "text": "..."}')
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        raise InvalidParameter(f"{path}.type", kind, "text", "This model takes text only.")
    text = part.get(kind)
    if text is None:
        raise RequestError(
            f"{path}.{kind} is missing; give a string.",
            f"{path}.{kind}",
            "missing_required_parameter",
        )
    if not isinstance(text, str):
        raise InvalidParameter(f"{path}.{kind}", text, "a string")
    return text


def _read_tool_call(body: Mapping[str, Any], prefix: str) -> ToolCall:
    call = validate(ToolCallFields, body, prefix)
    function = validate(FunctionFields, call.function, f"{prefix}function.")
    return ToolCall(call.id, function.name, function.arguments)
