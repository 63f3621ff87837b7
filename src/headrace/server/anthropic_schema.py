"""The bodies of POST /v1/messages and /v1/messages/count_tokens: their fields, and what they mean.

In: a JSON object. Out: checked fields, sampling parameters, template variables. What an Anthropic
field means that this server cannot do is an error that names it; hints for a cache are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from headrace.core.backend import ModelInfo
from headrace.core.config import ServerConfig
from headrace.core.errors import InvalidParameter, RequestError, UnsupportedParameter
from headrace.core.frozen import frozen
from headrace.core.request import SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.server.error_responses import worded
from headrace.server.generation_schema import (
    Number,
    Objects,
    Strict,
    Texts,
    allowed,
    unknown_names,
    validate,
    with_seed,
)
from headrace.server.template_wishes import Wish, read_wishes

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
    messages: Objects = Field(description="a list of at least one message object")
    system: str | list[Any] | None = allowed("a string or a list of text blocks")
    tools: Objects | None = allowed("a list of tools")
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
    stop_sequences: Texts | None = allowed("a list of strings")
    temperature: Number | None = allowed("a number from 0 to 2")
    top_p: Number | None = allowed("a number, more than 0, at most 1")
    top_k: int | None = allowed("a whole number: -1 or 0 (all), or 1 to 2147483647")
    stream: bool | None = allowed("true or false")
    metadata: dict[str, Any] | None = allowed("an object with user_id")
    service_tier: Literal["auto", "standard_only"] | None = allowed("auto or standard_only")
    # Ours, with the names of the other routes.
    seed: int | None = allowed("a signed 64-bit integer")
    receipt: bool | None = allowed("true or false")
    return_token_ids: bool | None = allowed("true or false")


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


Shown = Literal["hidden", "omitted", "whole"]


@frozen
class ThinkingAsked:
    """What is shown of a model's thinking, the template's switch for it, keys without effect."""

    shown: Shown
    variables: Mapping[str, Any]
    unknown: tuple[str, ...] = ()


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
    "response_format": "this route knows it as output_config.format.",
    "structured_outputs": "this route knows schemas alone, as output_config.format.",
    "user_profile_id": "tenants come from the API key. Leave it out.",
    "workspace_id": "tenants come from the API key. Leave it out.",
}
MESSAGES_NEUTRAL: dict[str, tuple[object, ...]] = {"mcp_servers": ([],), "fallbacks": ([],)}


def check_fields(fields: PromptFields) -> list[str]:
    """Refuse what this server cannot honour; name the keys that nobody defines.

    Raises: RequestError.
    """
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


def read_thinking(fields: PromptFields, model: ModelInfo, config: ServerConfig) -> ThinkingAsked:
    """Whether the model may think, and what is shown of it. It does not unless it is asked to.

    Raises: RequestError.
    """
    if fields.thinking is None:
        return _asked("hidden", model)
    thinking = validate(ThinkingFields, fields.thinking, "thinking.")
    unknown = unknown_names(thinking, (), "thinking.")
    shown: Shown = "omitted" if thinking.display == "omitted" else "whole"
    if thinking.type == "enabled":
        _check_budget(thinking.budget_tokens, getattr(fields, "max_tokens", None))
        if not model.has_reasoning:
            if config.unread_parameters == "error":
                raise UnsupportedParameter(
                    "thinking",
                    'this model does not think. Leave it out, or send {"type": "disabled"}.',
                )
            return _asked("hidden", model, [*unknown, "thinking"])
        # A target in Anthropic's words too, and no limit.
        unknown.append("thinking.budget_tokens")
    elif thinking.type == "disabled" or not model.has_reasoning:
        shown = "hidden"
    return _asked(shown, model, unknown)


def _asked(shown: Shown, model: ModelInfo, unknown: Sequence[str] = ()) -> ThinkingAsked:
    is_switch = "enable_thinking" in model.template_variables
    variables = {"enable_thinking": shown != "hidden"} if is_switch else {}
    return ThinkingAsked(shown, variables, tuple(unknown))


def _check_budget(budget: int | None, max_tokens: int | None) -> None:
    path = "thinking.budget_tokens"
    if budget is None:
        raise RequestError(
            f"{path} is missing; give a whole number, 1024 or more.",
            path,
            "missing_required_parameter",
        )
    if budget < 1024 or (max_tokens is not None and budget >= max_tokens):
        limit = "" if max_tokens is None else f" and less than max_tokens ({max_tokens})"
        raise InvalidParameter(path, budget, f"1024 or more{limit}")


def read_effort(
    fields: PromptFields, model: ModelInfo, config: ServerConfig
) -> tuple[dict[str, Any], list[str]]:
    """`output_config.effort`, as `read_wishes`. Raises: UnsupportedParameter."""
    effort = (fields.output_config or {}).get("effort")
    wish = Wish("output_config.effort", "reasoning_effort", effort, "high")
    return read_wishes([wish], model, config)


def make_sampling(fields: MessageFields, form: StructuredOutputs | None) -> SamplingParams:
    """Sampling parameters without a length, which the context may bound.

    Raises: RequestError in the field names of the body.
    """
    if fields.max_tokens < 1:
        raise InvalidParameter("max_tokens", fields.max_tokens, "1 or more")
    names = ("temperature", "top_p", "top_k", "seed", "return_token_ids")
    given = {name: getattr(fields, name) for name in names}
    known = {name: value for name, value in given.items() if value is not None}
    with worded(WIRE_NAMES):
        return SamplingParams(
            stop=fields.stop_sequences or (), structured_outputs=form, **with_seed(known)
        )
