"""The bodies of POST /v1/messages and /v1/messages/count_tokens: their fields, and what they mean.

In: a JSON object. Out: checked fields, sampling parameters, template variables. What an Anthropic
field means that this server cannot do is an error that names it; hints for a cache are taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import Field

from headrace.core.errors import InvalidParameter, RequestError, UnsupportedParameter
from headrace.core.request import MAX_STOP_STRINGS, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.server.error_responses import worded
from headrace.server.generation_schema import Number, Strict, allowed, unknown_names, validate

_SCHEMA = "output_config.format.schema"
_EFFORTS = "low, medium, high, xhigh or max"
_CACHE_CONTROL = 'an object: {"type": "ephemeral"}, with ttl 5m or 1h if you like'

WIRE_NAMES: Mapping[str, str] = {
    "stop": "stop_sequences",
    "structured_outputs.json": _SCHEMA,
    "chat_template_kwargs": "output_config.effort",
}


class PromptFields(Strict):
    """What both routes have: all that the prompt is made of."""

    model: str = Field(description="the name of a served model, as GET /v1/models lists them")
    messages: list[dict[str, Any]] = Field(description="a list of at least one message object")
    system: str | list[Any] | None = allowed("a string or a list of text blocks")
    tools: list[dict[str, Any]] | None = allowed("a list of tools")
    tool_choice: dict[str, Any] | None = allowed("an object with type auto, any, tool or none")
    thinking: dict[str, Any] | None = allowed(
        'an object: {"type": "disabled"}, {"type": "adaptive"}, or {"type": "enabled", '
        '"budget_tokens": ...}'
    )
    output_config: dict[str, Any] | None = allowed("an object with effort and format")
    cache_control: dict[str, Any] | None = allowed(_CACHE_CONTROL)
    speed: Literal["standard"] | None = allowed("standard")


class MessageFields(PromptFields):
    max_tokens: int = Field(description="a whole number, 1 or more")
    stop_sequences: list[str] | None = allowed("a list of strings")
    temperature: Number | None = allowed("a number from 0 to 2")
    top_p: Number | None = allowed("a number, more than 0, at most 1")
    top_k: int | None = allowed("a whole number: -1 or 0 (all), or 1 and more")
    stream: bool | None = allowed("true or false")
    metadata: dict[str, Any] | None = allowed("an object with user_id")
    service_tier: Literal["auto", "standard_only"] | None = allowed("auto or standard_only")


class ThinkingFields(Strict):
    type: Literal["enabled", "disabled", "adaptive"] = Field(
        description="enabled, disabled or adaptive"
    )
    budget_tokens: int | None = allowed("a whole number, 1024 or more")
    display: Literal["summarized", "omitted"] | None = allowed("summarized or omitted")


class OutputFields(Strict):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = allowed(_EFFORTS)
    format: dict[str, Any] | None = allowed('an object: {"type": "json_schema", "schema": ...}')


class FormatFields(Strict):
    type: Literal["json_schema"] = Field(description="json_schema")


class MetadataFields(Strict):
    user_id: str | None = allowed("a string")


class CacheControlFields(Strict):
    type: Literal["ephemeral"] = Field(description="ephemeral")
    ttl: Literal["5m", "1h"] | None = allowed("5m or 1h")


MESSAGES_REFUSED: dict[str, str] = {
    "container": "there are no containers. Leave it out.",
    "context_management": "no part of a conversation is edited. Leave it out.",
    "diagnostics": "cache misses are not explained. Leave it out.",
    "fallbacks": "there are no models to fall back to. Leave it out.",
    "inference_geo": "the server is where it is. Leave it out.",
    "mcp_servers": "the server calls no other servers. Leave it out.",
    "output_format": "the field is out of date. Use output_config.format.",
    "user_profile_id": "tenants come from the API key. Leave it out.",
    "workspace_id": "tenants come from the API key. Leave it out.",
}
MESSAGES_NEUTRAL: dict[str, tuple[object, ...]] = {"mcp_servers": ([],), "fallbacks": ([],)}


def check_fields(fields: PromptFields) -> list[str]:
    """Refuse what this server cannot honour; name the keys that nobody defines.

    Raises: RequestError.
    """
    if fields.tools:
        raise UnsupportedParameter("tools", "tool calls are not served yet. Leave it out.")
    if fields.tool_choice is not None and fields.tool_choice.get("type") not in ("auto", "none"):
        raise InvalidParameter(
            "tool_choice.type", fields.tool_choice.get("type"), "auto or none without tools"
        )
    unknown = check_cache_control(fields.cache_control, "")
    if isinstance(fields, MessageFields) and fields.metadata is not None:
        metadata = validate(MetadataFields, fields.metadata, "metadata.")
        unknown += unknown_names(metadata, (), "metadata.")
    return unknown + unknown_names(fields, MESSAGES_REFUSED)


def check_cache_control(value: object, prefix: str) -> list[str]:
    """A hint where a prefix ends; prefixes of any length are kept without it.

    Raises: RequestError.
    """
    path = f"{prefix}cache_control"
    if value is None:
        return []
    if not isinstance(value, dict):
        raise InvalidParameter(path, value, _CACHE_CONTROL)
    return unknown_names(validate(CacheControlFields, value, f"{path}."), (), f"{path}.")


def read_form(fields: PromptFields) -> tuple[StructuredOutputs | None, list[str]]:
    """The form that the answer must have, and keys that nobody defines.

    Raises: RequestError.
    """
    if fields.output_config is None:
        return None, []
    output = validate(OutputFields, fields.output_config, "output_config.")
    unknown = unknown_names(output, (), "output_config.")
    if output.format is None:
        return None, unknown
    form = validate(FormatFields, output.format, "output_config.format.")
    unknown += unknown_names(form, ("schema",), "output_config.format.")
    schema = output.format.get("schema")
    if not isinstance(schema, dict):
        raise InvalidParameter(_SCHEMA, schema, "a JSON schema: an object")
    with worded(WIRE_NAMES):
        return StructuredOutputs(json=schema), unknown


def template_variables(fields: PromptFields, known: Collection[str]) -> dict[str, Any]:
    """What `thinking` and `output_config.effort` are to the model's template.

    Raises: UnsupportedParameter for what a template that does not read them cannot do.
    """
    variables: dict[str, Any] = {}
    effort = (fields.output_config or {}).get("effort")
    if "reasoning_effort" in known and effort is not None:
        variables["reasoning_effort"] = effort
    elif effort not in (None, "high"):
        raise UnsupportedParameter(
            "output_config.effort",
            "this model's chat template does not read it. Leave it out or send high.",
        )
    thinks = _read_thinking(fields, "enable_thinking" in known)
    return variables | ({"enable_thinking": thinks} if "enable_thinking" in known else {})


def _read_thinking(fields: PromptFields, can_think: bool) -> bool:
    """Whether the model may think. It does not unless it is asked to, as in Anthropic's API."""
    if fields.thinking is None:
        return False
    thinking = validate(ThinkingFields, fields.thinking, "thinking.")
    if thinking.type == "disabled" or (thinking.type == "adaptive" and not can_think):
        return False
    reason = "reasoning is not parsed yet" if can_think else "this model does not think"
    raise UnsupportedParameter(
        "thinking", f'{reason}. Leave it out, or send {{"type": "disabled"}}.'
    )


def make_sampling(fields: MessageFields, form: StructuredOutputs | None) -> SamplingParams:
    """Sampling parameters without a length, which the context may bound.

    Raises: RequestError in the field names of the body.
    """
    if fields.max_tokens < 1:
        raise InvalidParameter("max_tokens", fields.max_tokens, "1 or more")
    stops = fields.stop_sequences or []
    if len(stops) > MAX_STOP_STRINGS:
        raise RequestError(
            f"stop_sequences has {len(stops)} texts; allowed: at most {MAX_STOP_STRINGS}.",
            "stop_sequences",
            "invalid_value",
        )
    given = {"temperature": fields.temperature, "top_p": fields.top_p, "top_k": fields.top_k}
    with worded(WIRE_NAMES):
        return SamplingParams(
            stop=stops,
            structured_outputs=form,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )
