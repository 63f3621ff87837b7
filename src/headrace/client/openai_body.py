"""A GenerateRequest as the body of OpenAI's chat completions or completions.

In: a request. Out: a JSON object that names only what differs from the API's defaults, so that
servers which know no more than those understand it. Fields of vLLM's and ours go out when the
caller gave them: a server that does not know one refuses it, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from headrace.client.wire_format import refuse_fields
from headrace.core.errors import UnsupportedParameter
from headrace.core.message import Message, Tool, ToolChoice
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.core.upstreams import UpstreamConfig

# Same name and meaning there.
_SAME = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "n", "seed"),
    *("top_k", "min_p", "typical_p", "repetition_penalty", "min_tokens", "ignore_eos"),
    *("include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens"),
    "return_token_ids",
)
_LISTS = ("stop", "stop_token_ids", "bad_words")
# Those make an answer repeatable, or come faster, and change nothing else.
_OPTIONAL = frozenset({"seed", "prediction", "stream_options"})
_DEFAULTS = SamplingParams()
# Its newer models know no other; servers of others may know no other than max_tokens.
_OPENAI_HOST = "//api.openai.com"


def make_body(request: GenerateRequest, config: UpstreamConfig) -> dict[str, Any]:
    """Raises: UnsupportedParameter for what these routes cannot be asked for."""
    _check(request)
    body: dict[str, Any] = {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.messages is None:
        body |= _prompt(request)
    else:
        body |= _chat(request)
    length = request.sampling.max_tokens
    length = request.default_max_tokens if length is None else length
    if length is not None:
        is_newer = _OPENAI_HOST in config.url and request.messages is not None
        body["max_completion_tokens" if is_newer else "max_tokens"] = length
    body |= _sampling(request.sampling)
    if request.truncate_prompt_tokens is not None:
        body["truncate_prompt_tokens"] = request.truncate_prompt_tokens
    body = {name: value for name, value in body.items() if name not in _left_out(config)}
    refuse_fields(body, config)
    return body


def _left_out(config: UpstreamConfig) -> frozenset[str]:
    return _OPTIONAL & frozenset(config.refuses)


def _check(request: GenerateRequest) -> None:
    """Raises: UnsupportedParameter."""
    if request.pooling is not None:
        raise UnsupportedParameter("pooling", "this upstream gives answers, no vectors.")
    if request.sampling.prompt_logprobs is not None:
        raise UnsupportedParameter("prompt_logprobs", "an upstream streams answers alone.")
    if request.return_prompt_text:
        raise UnsupportedParameter("echo", "an upstream streams answers alone.")


def _prompt(request: GenerateRequest) -> dict[str, Any]:
    prompt = list(request.prompt) if isinstance(request.prompt, tuple) else request.prompt
    body: dict[str, Any] = {"prompt": prompt}
    if request.suffix is not None:
        body["suffix"] = request.suffix
    if not request.add_special_tokens:
        body["add_special_tokens"] = False
    if request.sampling.logprobs is not None:
        body["logprobs"] = request.sampling.logprobs
    return body


def _chat(request: GenerateRequest) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(message) for message in request.messages or ()]}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        body |= _tool_choice(request.tool_choice)
    if request.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.sampling.logprobs}
    if request.prediction is not None:
        body["prediction"] = {"type": "content", "content": request.prediction}
    if request.continue_final_message:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    elif not request.add_generation_prompt:
        body["add_generation_prompt"] = False
    variables = dict(request.chat_template_kwargs)
    for name in ("reasoning_effort", "verbosity"):
        if name in variables:
            body[name] = variables.pop(name)
    if variables:
        body["chat_template_kwargs"] = variables
    return body


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        body["name"] = message.name
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return body


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.is_strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> dict[str, Any]:
    body: dict[str, Any] = {} if choice.allows_parallel else {"parallel_tool_calls": False}
    if choice.names is None:
        return body if choice.mode == "auto" else body | {"tool_choice": choice.mode}
    named = [_named(name) for name in choice.names]
    if choice.mode == "required" and len(named) == 1:
        return body | {"tool_choice": named[0]}
    allowed = {"mode": choice.mode, "tools": named}
    return body | {"tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}}


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _sampling(sampling: SamplingParams) -> dict[str, Any]:
    body = {
        name: getattr(sampling, name)
        for name in _SAME
        if getattr(sampling, name) != getattr(_DEFAULTS, name)
    }
    for name in _LISTS:
        values: Sequence[Any] = getattr(sampling, name)
        if values:
            body[name] = list(values)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    if sampling.allowed_token_ids is not None:
        body["allowed_token_ids"] = list(sampling.allowed_token_ids)
    if sampling.repetition_detection is not None:
        body["repetition_detection"] = asdict(sampling.repetition_detection)
    if sampling.structured_outputs is not None:
        body |= _form(sampling.structured_outputs)
    return body


def _form(form: StructuredOutputs) -> Mapping[str, Any]:
    if form.form == "json_object":
        return {"response_format": {"type": "json_object"}}
    if form.form == "json":
        named = {"name": "answer", "schema": json.loads(form.source), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    value = list(form.choice or ()) if form.form == "choice" else form.source
    return {"structured_outputs": {form.form: value}}
