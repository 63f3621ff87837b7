"""The body of POST /v1/responses: its fields, and what of them this server cannot honour.

In: a JSON object. Out: checked fields, the form of the answer and how it is shown again. Items of
the input belong to `response_items`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from headrace.core.errors import InvalidParameter, RequestError, UnsupportedParameter
from headrace.core.frozen import frozen
from headrace.core.structured_outputs import StructuredOutputs
from headrace.server.form_schema import read_text_format
from headrace.server.generation_schema import (
    NEUTRAL,
    REFUSED,
    GenerationFields,
    Strict,
    allowed,
    unknown_names,
    validate,
)
from headrace.server.openai_chat_schema import ServiceTier, check_metadata
from headrace.server.response_tools import TOOL_CHOICES
from headrace.server.template_wishes import Wish

ENCRYPTED_REASONING, LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"
INCLUDABLE = (ENCRYPTED_REASONING, LOGPROBS)

_BOOLEAN = "true or false"
_TEXT = "a string"


class ResponsesFields(GenerationFields):
    input: str | list[Any] = Field(description="a string, or a list of at least one item")
    instructions: str | None = allowed(_TEXT)
    previous_response_id: str | None = allowed("the id of a stored response")
    max_output_tokens: int | None = allowed("a whole number, 1 or more")
    max_tool_calls: int | None = allowed("a whole number, 1 or more")
    text: dict[str, Any] | None = allowed('an object such as {"format": {"type": "text"}}')
    reasoning: dict[str, Any] | None = allowed('an object such as {"effort": "low"}')
    truncation: Literal["auto", "disabled"] | None = allowed("auto or disabled")
    top_logprobs: int | None = allowed("a whole number from 0 to 20")
    include: list[Any] | None = allowed(f"a list of {' and '.join(INCLUDABLE)}")
    store: bool | None = allowed(_BOOLEAN)
    background: bool | None = allowed(_BOOLEAN)
    tools: list[Any] | None = allowed("a list of tools")
    tool_choice: str | dict[str, Any] | None = allowed(TOOL_CHOICES)
    parallel_tool_calls: bool | None = allowed(_BOOLEAN)
    metadata: dict[str, Any] | None = allowed("at most 16 strings with names")
    service_tier: ServiceTier | None = allowed("auto, default, flex, scale, priority or fast")
    prompt_cache_options: dict[str, Any] | None = allowed("an object with mode and ttl")
    prompt_cache_retention: Literal["in_memory", "24h"] | None = allowed("in_memory or 24h")
    include_reasoning: bool | None = allowed(_BOOLEAN)
    chat_template_kwargs: dict[str, Any] | None = allowed("an object")


class ReasoningFields(Strict):
    effort: str | None = allowed(_TEXT)
    summary: Literal["auto", "concise", "detailed"] | None = allowed("auto")
    generate_summary: Literal["auto", "concise", "detailed"] | None = allowed("auto")
    context: str | None = allowed("auto")
    mode: str | None = allowed("standard")


class TextFields(Strict):
    format: dict[str, Any] | None = allowed('an object such as {"type": "json_object"}')
    verbosity: Literal["low", "medium", "high"] | None = allowed("low, medium or high")


_LATER = "it is not served yet. Leave it out."
# Served here, and refused where answers have text alone.
_SERVED = ("include_reasoning",)
RESPONSES_REFUSED: dict[str, str] = {k: v for k, v in REFUSED.items() if k not in _SERVED} | {
    "thinking_token_budget": "reasoning has no limit of its own. Use max_output_tokens.",
    "functions": "the field is out of date. Use tools.",
    "function_call": "the field is out of date. Use tool_choice.",
    "max_tokens": "this route knows it as max_output_tokens.",
    "max_completion_tokens": "this route knows it as max_output_tokens.",
    "messages": "this route knows them as input.",
    "response_format": "this route knows it as text.format.",
    "logprobs": f'send include: ["{LOGPROBS}"] and top_logprobs.',
    "n": "a response has one answer. Send the request again for another.",
    "prompt_logprobs": "a response has none. Use /v1/chat/completions.",
    "return_tokens_as_token_ids": "a response has none. Use /v1/chat/completions.",
    "request_id": "ids of responses are made by the server. Send the header X-Request-Id.",
    "reasoning_effort": "this route knows it as reasoning.effort.",
    "verbosity": "this route knows it as text.verbosity.",
    "conversation": "there are no conversations. Use previous_response_id.",
    "prompt": "there are no stored prompts. Use instructions and input.",
    "access_programs": _LATER,
    "background_options": _LATER,
    "context_management": "it is not served yet. Use truncation.",
    "image": "this model takes text only. Leave it out.",
    "modalities": "a response is text. Leave it out.",
    "moderation": "there is no moderation. Leave it out.",
}
RESPONSES_NEUTRAL = NEUTRAL | {
    "n": (1,),
    "modalities": (["text"],),
    "return_tokens_as_token_ids": (False,),
}


@frozen
class TextForm:
    """The form of the answer, and `text` as the response shows it."""

    structured_outputs: StructuredOutputs | None
    shown: Mapping[str, Any]
    wire_names: Mapping[str, str]


def check_features(fields: ResponsesFields) -> None:
    """Refuse what this server cannot honour, by name.

    Raises: RequestError.
    """
    for name in fields.include or ():
        if name not in INCLUDABLE:
            raise InvalidParameter("include", [name], f"a list of {' and '.join(INCLUDABLE)}")
    for name in ("prewarm", "comparison_response_id"):
        if (fields.prompt_cache_options or {}).get(name) not in (None, False):
            raise UnsupportedParameter(f"prompt_cache_options.{name}", _LATER)
    if fields.max_tool_calls is not None and fields.max_tool_calls < 1:
        raise InvalidParameter("max_tool_calls", fields.max_tool_calls, "1 or more")
    check_metadata(fields.metadata)


def num_logprobs(fields: ResponsesFields) -> int | None:
    """How many alternatives each token is shown with; None shows no log-probabilities."""
    if fields.top_logprobs or LOGPROBS in (fields.include or ()):
        return fields.top_logprobs or 0
    return None


def read_text(fields: ResponsesFields) -> tuple[TextForm, Wish, list[str]]:
    """The form of the answer, how long it shall be, keys that nobody defines.

    Raises: RequestError.
    """
    text = validate(TextFields, fields.text or {}, "text.")
    form, wire_names, unknown = read_text_format(text.format, fields.structured_outputs)
    shown = {"format": _shown_format(text.format), "verbosity": text.verbosity or "medium"}
    unknown += unknown_names(text, (), "text.")
    verbosity = Wish("text.verbosity", "verbosity", text.verbosity, "medium")
    return TextForm(form, shown, wire_names), verbosity, unknown


def read_reasoning(fields: ResponsesFields) -> tuple[dict[str, Any], Wish, list[str]]:
    """`reasoning` as the response shows it, its effort, and keys that nobody defines.

    Raises: RequestError.
    """
    given = validate(ReasoningFields, fields.reasoning or {}, "reasoning.")
    effort = Wish("reasoning.effort", "reasoning_effort", given.effort, "none")
    for name, neutral in (
        ("summary", "auto"),
        ("generate_summary", "auto"),
        ("context", "auto"),
        ("mode", "standard"),
    ):
        value = getattr(given, name)
        if value not in (None, neutral):
            reason = f"this server makes none such. Leave it out or send {neutral}."
            raise UnsupportedParameter(f"reasoning.{name}", reason)
    shown = {"effort": given.effort, "summary": given.summary}
    return shown, effort, unknown_names(given, (), "reasoning.")


def _shown_format(given: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if given is None or given.get("type") != "json_schema":
        return {"type": "text" if given is None else given.get("type", "text")}
    return {
        "type": "json_schema",
        "name": given["name"],
        "schema": given["schema"],
        "description": given.get("description"),
        "strict": given.get("strict") is not False,
    }


def missing_response(response_id: str) -> RequestError:
    """The error for a `previous_response_id` that leads nowhere."""
    shown = response_id if len(response_id) <= 80 else f"{response_id[:77]}..."
    return RequestError(
        f"previous_response_id leads to {shown!r}, which is not stored: it was deleted, is too "
        "old, was sent with store: false, or never was. Send the conversation as input.",
        "previous_response_id",
        "previous_response_not_found",
    )
