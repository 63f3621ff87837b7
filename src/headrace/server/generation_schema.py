"""Fields that chat and text completions share, their types, and what they become in `core`.

A field's `description` says what is allowed, and error messages quote it. Pydantic checks types;
ranges are checked once, in `core.request.SamplingParams`. `REFUSED` names known fields that have an
effect and are not served: they are errors, never ignored.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from headrace.core.backend import ModelInfo
from headrace.core.errors import InvalidParameter, UnsupportedParameter
from headrace.core.receipt import SEED_BITS
from headrace.core.request import RepetitionDetection, SamplingParams
from headrace.server.error_responses import describe_validation, worded

# A union keeps what was given: 2 stays 2 in an error message, where float would make it 2.0.
Number = int | float
# The first wrong member is enough to know: an error for each of millions would take gigabytes.
Ids = Annotated[list[int], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True)]
Objects = Annotated[list[dict[str, Any]], Field(fail_fast=True)]

_BOOLEAN = "true or false"
_TEXT = "a string"


class Strict(BaseModel):
    """Exact JSON types: "10" is no number, true is no integer. Unknown keys are kept aside."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=())


def allowed(description: str) -> Any:
    """A field that may be left out or null, with what it may hold."""
    return Field(default=None, description=description)


class StreamOptions(Strict):
    include_usage: bool | None = allowed(_BOOLEAN)
    include_obfuscation: bool | None = allowed(_BOOLEAN)
    continuous_usage_stats: bool | None = allowed(_BOOLEAN)


class GenerationFields(Strict):
    """Sampling and request fields at the top level of a body. null means the default."""

    model: str = Field(description="the name of a served model, as GET /v1/models lists them")
    stream: bool | None = allowed(_BOOLEAN)
    stream_options: dict[str, Any] | None = allowed('an object such as {"include_usage": true}')
    max_tokens: int | None = allowed("a whole number, 1 or more")

    temperature: Number | None = allowed("a number from 0 to 2")
    top_p: Number | None = allowed("a number, more than 0, at most 1")
    top_k: int | None = allowed("a whole number: -1 or 0 (all), or 1 to 2147483647")
    min_p: Number | None = allowed("a number from 0 to 1")
    typical_p: Number | None = allowed("a number, more than 0, at most 1")
    repetition_penalty: Number | None = allowed("a number from 0.01 to 10")
    presence_penalty: Number | None = allowed("a number from -2 to 2")
    frequency_penalty: Number | None = allowed("a number from -2 to 2")
    logit_bias: dict[str, Any] | None = allowed("token ids with numbers from -100 to 100")
    allowed_token_ids: Ids | None = allowed("a list of token ids")
    bad_words: Texts | None = allowed("a list of strings")
    seed: int | None = allowed("a signed 64-bit integer")
    n: int | None = allowed("a whole number from 1 to 128")
    stop: str | Texts | None = allowed("a string or a list of strings")
    stop_token_ids: Ids | None = allowed("a list of token ids")
    min_tokens: int | None = allowed("a whole number, 0 or more")
    prompt_logprobs: int | None = allowed("a whole number from 0 to 20")
    ignore_eos: bool | None = allowed(_BOOLEAN)
    include_stop_str_in_output: bool | None = allowed(_BOOLEAN)
    skip_special_tokens: bool | None = allowed(_BOOLEAN)
    spaces_between_special_tokens: bool | None = allowed(_BOOLEAN)

    add_special_tokens: bool | None = allowed(_BOOLEAN)
    truncate_prompt_tokens: int | None = allowed("a whole number, 1 or more; -1 is all that fit")
    return_token_ids: bool | None = allowed(_BOOLEAN)
    return_tokens_as_token_ids: bool | None = allowed(_BOOLEAN)
    priority: int | None = allowed("a whole number; lower runs earlier")
    cache_salt: str | None = allowed(_TEXT)
    request_id: str | None = Field(
        default=None,
        description="1 to 128 letters, digits and _ . : -",
        pattern=r"^[A-Za-z0-9_.:-]{1,128}$",
    )
    receipt: bool | None = allowed(_BOOLEAN)
    cache: dict[str, Any] | None = allowed(
        "an object with some of no-cache, no-store, ttl, s-maxage, namespace"
    )
    session_id: str | None = allowed(_TEXT)
    user: str | None = allowed(_TEXT)
    safety_identifier: str | None = allowed(_TEXT)
    prompt_cache_key: str | None = allowed(_TEXT)
    response_format: dict[str, Any] | None = allowed(
        'an object: {"type": "text"}, {"type": "json_object"}, or {"type": "json_schema", '
        '"json_schema": {"name": ..., "schema": ...}}'
    )
    structured_outputs: dict[str, Any] | None = allowed(
        "an object with one of json, json_object, regex, choice and grammar"
    )
    repetition_detection: dict[str, Any] | None = allowed(
        "an object with max_pattern_size, min_pattern_size and min_count"
    )


class RepetitionFields(Strict):
    max_pattern_size: int | None = allowed("a whole number, 0 or more")
    min_pattern_size: int | None = allowed("a whole number, 0 or more")
    min_count: int | None = allowed("a whole number, 2 or more")


# Effect unsupported -> reason. A value in the second table changes nothing and is accepted.
REFUSED: dict[str, str] = {
    "guided_json": 'the name is out of date. Use structured_outputs: {"json": ...}.',
    "guided_regex": 'the name is out of date. Use structured_outputs: {"regex": ...}.',
    "guided_choice": 'the name is out of date. Use structured_outputs: {"choice": ...}.',
    "guided_grammar": 'the name is out of date. Use structured_outputs: {"grammar": ...}.',
    "use_beam_search": "there is no beam search. Use n with a temperature.",
    "length_penalty": "it belongs to beam search, which is not served. Leave it out.",
    "logprob_token_ids": "ask for the most likely tokens with top_logprobs or logprobs instead.",
    "truncation_side": "prompts are cut at the left only. Leave it out.",
    "stream_interval": "every token is sent as it comes. Leave it out.",
    "vllm_xargs": "there are no plugins. Leave it out.",
    "prompt_embeds": "prompts are text or token ids. Use prompt.",
    "thinking_token_budget": "reasoning has no limit of its own. Use max_tokens.",
    "include_reasoning": "reasoning is part of a completion's text. Use chat completions.",
    "lora_request": "an adapter is asked for as the model, by its name. Leave it out.",
    "grammar": 'it is a field of llama.cpp. Use structured_outputs: {"grammar": ...}.',
    "json_schema": 'it is a field of llama.cpp. Use structured_outputs: {"json": ...}.',
    "n_predict": "it is a field of llama.cpp. Use max_tokens.",
    "repeat_penalty": "it is a field of llama.cpp. Use repetition_penalty.",
    "mirostat": "there is no mirostat. Use temperature, top_p or min_p.",
}
NEUTRAL: dict[str, tuple[object, ...]] = {
    "use_beam_search": (False,),
    "length_penalty": (1, 1.0),
    "truncation_side": ("left",),
    "stream_interval": (1,),
    "include_reasoning": (True,),
    "vllm_xargs": ({},),
    "logprob_token_ids": ([],),
    "grammar": ("",),
    "n_predict": (-1,),
    "repeat_penalty": (1, 1.0),
    "mirostat": (0,),
}

# Hints that nothing here follows, and the values that ask for what is done anyway.
_IDLE: dict[str, tuple[str, ...]] = {
    "service_tier": ("auto", "default"),
    "prompt_cache_retention": ("in_memory",),
    "session_id": (),
}

# Fields of SamplingParams whose name and meaning on the wire are the same.
_SAMPLING_NAMES = frozenset(
    {
        *("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty"),
        *("presence_penalty", "frequency_penalty", "logit_bias", "allowed_token_ids", "bad_words"),
        *("seed", "n", "stop", "stop_token_ids", "min_tokens", "prompt_logprobs", "ignore_eos"),
        *("include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens"),
        "return_token_ids",
    }
)

Schema = TypeVar("Schema", bound=BaseModel)


def validate(schema: type[Schema], body: Mapping[str, Any], prefix: str = "") -> Schema:
    """Check a JSON object against a schema.

    Raises: RequestError that names the field, its value and what is allowed.
    """
    try:
        return schema.model_validate(body)
    except ValidationError as error:
        raise describe_validation(error, schema, body, prefix) from None


def refuse_unsupported(
    body: Mapping[str, Any],
    refused: Mapping[str, str],
    neutral: Mapping[str, tuple[object, ...]],
) -> None:
    """Raises: UnsupportedParameter for a known field that cannot be honoured."""
    for name in body:
        if name not in refused or body[name] is None:
            continue
        value = body[name]
        if not any(type(value) is type(ok) and value == ok for ok in neutral.get(name, ())):
            raise UnsupportedParameter(name, refused[name])


def unknown_names(fields: BaseModel, known: Collection[str], prefix: str = "") -> list[str]:
    """Names of keys with a value that nobody defines."""
    extra = fields.model_extra or {}
    return [
        f"{prefix}{name}"
        for name, value in extra.items()
        if name not in known and value is not None
    ]


def read_stream_options(fields: GenerationFields) -> StreamOptions:
    """Raises: InvalidParameter when there are options and no stream."""
    if fields.stream_options is None:
        return StreamOptions()
    if not fields.stream:
        raise InvalidParameter(
            "stream_options", fields.stream_options, "only together with stream: true"
        )
    return validate(StreamOptions, fields.stream_options, "stream_options.")


def make_sampling(
    fields: GenerationFields,
    wire_names: Mapping[str, str],
    *,
    is_prompt_read: bool = False,
    **settled: Any,
) -> SamplingParams:
    """Build the sampling parameters; `settled` are those a dialect words differently.

    Without a seed one is drawn, so that the caller can be told. `is_prompt_read`: something is
    answered about the prompt, so that an answer may have no token.
    Raises: RequestError in the field names of the dialect.
    """
    names = _SAMPLING_NAMES & fields.model_fields_set
    given = {name: getattr(fields, name) for name in names} | settled
    repetition = _read_repetition(fields)
    if repetition is not None:
        sizes = {name: getattr(repetition, name) for name in RepetitionFields.model_fields}
        known = {name: size for name, size in sizes.items() if size is not None}
        given["repetition_detection"] = RepetitionDetection(**known)
    arguments = {name: value for name, value in given.items() if value is not None}
    with worded(wire_names):
        least = 0 if is_prompt_read else 1
        if arguments.get("max_tokens", least) < least:
            allowed = f"{least} or more"
            if least and "echo" in type(fields).model_fields:
                allowed += "; 0 together with echo"
            raise InvalidParameter("max_tokens", arguments["max_tokens"], allowed)
        return SamplingParams(**with_seed(arguments))


def with_seed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of SamplingParams, with a drawn seed where they have none."""
    if "seed" in arguments:
        return dict(arguments)
    return {"seed": secrets.randbits(SEED_BITS), "is_seed_drawn": True, **arguments}


def with_other_seed(sampling: SamplingParams) -> SamplingParams:
    """The same for another prompt of the call, with a seed of its own."""
    return replace(sampling, seed=secrets.randbits(SEED_BITS))


def names_without_effect(fields: GenerationFields, model: ModelInfo) -> list[str]:
    """Fields whose values change nothing here, and keys of `repetition_detection` that nobody
    defines. Raises: InvalidParameter."""
    given = {name: getattr(fields, name, None) for name in _IDLE}
    names = [name for name, value in given.items() if value not in (None, *_IDLE[name])]
    if fields.cache and not model.keeps_answers:
        names.append("cache")
    repetition = _read_repetition(fields)
    return names + (unknown_names(repetition, (), "repetition_detection.") if repetition else [])


def _read_repetition(fields: GenerationFields) -> RepetitionFields | None:
    given = fields.repetition_detection
    return None if given is None else validate(RepetitionFields, given, "repetition_detection.")


def check_truncation(fields: GenerationFields) -> None:
    """Raises: InvalidParameter unless `truncate_prompt_tokens` is -1, or 1 or more."""
    wanted = fields.truncate_prompt_tokens
    if wanted is not None and wanted < 1 and wanted != -1:
        allowed = "a whole number, 1 or more; -1 is all that fit"
        raise InvalidParameter("truncate_prompt_tokens", wanted, allowed)
