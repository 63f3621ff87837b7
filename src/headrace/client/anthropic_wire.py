"""AnthropicWire: messages, streamed.

In: requests and the data of events. Out: bodies and RequestOutputs. What the API has no word for is
refused by name; a seed alone is left out, as it only makes answers repeatable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from headrace.client.wire_format import (
    AnswerSoFar,
    ErrorEvent,
    Malformed,
    read_index,
    read_object,
    read_text,
    refuse_fields,
)
from headrace.core.errors import UnsupportedParameter
from headrace.core.message import Message, Tool, ToolChoice
from headrace.core.output import CompletionDelta, FinishReason, RequestOutput, ToolCallDelta
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.upstreams import UpstreamConfig
from headrace.economics.usage_formats import StreamUsage

VERSION = "2023-06-01"
# The API wants a length; every model of it can say as much.
DEFAULT_MAX_TOKENS = 4096
MAX_BLOCKS = 4096
_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "refusal": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}
_BUSY = frozenset({"overloaded_error", "rate_limit_error", "api_error", "timeout_error"})
_DEFAULTS = SamplingParams()
_NO_WORD = (
    *("n", "logprobs", "prompt_logprobs", "min_p", "typical_p", "repetition_penalty"),
    *("presence_penalty", "frequency_penalty", "allowed_token_ids", "ignore_eos", "min_tokens"),
    *("include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens"),
    *("return_token_ids", "logit_bias", "bad_words", "stop_token_ids", "repetition_detection"),
)


class AnthropicWire:
    """See WireFormat."""

    def path(self, request: GenerateRequest) -> str:
        """See WireFormat."""
        return "/messages"

    def headers(self, key: str | None) -> dict[str, str]:
        """See WireFormat."""
        version = {"anthropic-version": VERSION}
        return version if key is None else version | {"x-api-key": key}

    def body(self, request: GenerateRequest, config: UpstreamConfig) -> dict[str, Any]:
        """See WireFormat."""
        _check(request)
        system, turns = _conversation(request.messages or ())
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": request.model,
            "stream": True,
            "max_tokens": (
                sampling.max_tokens
                or request.default_max_tokens
                or min(DEFAULT_MAX_TOKENS, config.max_model_len)
            ),
            "messages": turns,
        }
        if system:
            body["system"] = system
        for name in ("temperature", "top_p"):
            if getattr(sampling, name) != getattr(_DEFAULTS, name):
                body[name] = getattr(sampling, name)
        if sampling.top_k > 0:
            body["top_k"] = sampling.top_k
        if sampling.stop:
            body["stop_sequences"] = list(sampling.stop)
        if request.tools and request.tool_choice.mode != "none":
            body["tools"] = [_tool(tool) for tool in _allowed(request)]
            body["tool_choice"] = _tool_choice(request.tool_choice)
        if sampling.structured_outputs is not None:
            schema = json.loads(sampling.structured_outputs.source)
            body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        refuse_fields(body, config)
        return body

    def reader(self, request: GenerateRequest, seed: int | None = None) -> AnthropicReader:
        """See WireFormat. This API takes no seed."""
        return AnthropicReader(request)


class AnthropicReader:
    """See AnswerReader."""

    def __init__(self, request: GenerateRequest) -> None:
        self._answer = AnswerSoFar(request)
        self._usage = StreamUsage("anthropic")
        # Which call a block of tool use is.
        self._calls: dict[int, int] = {}
        self.is_over = False

    def read(self, data: bytes) -> RequestOutput | None:
        """See AnswerReader."""
        event = read_object(data)
        kind = event.get("type")
        if kind == "error":
            raise _error(event.get("error"))
        self._usage.see(event)
        if kind == "message_stop":
            self.is_over = True
        elif kind == "message_delta":
            self._read_end(event.get("delta"))
        elif kind in ("content_block_start", "content_block_delta"):
            delta = self._read_block(kind, event)
            if delta is not None:
                return self._answer.output([delta], self._usage.usage)
        return None

    def end(self) -> RequestOutput:
        """See AnswerReader."""
        return self._answer.last(self._usage.usage)

    def _read_block(self, kind: str, event: Mapping[str, Any]) -> CompletionDelta | None:
        index = read_index(event.get("index"), MAX_BLOCKS, f"{kind}.index")
        name = "content_block" if kind == "content_block_start" else "delta"
        part = event.get(name)
        if not isinstance(part, Mapping):
            raise Malformed(f"{kind}.{name} is not an object")
        what = part.get("type")
        if what == "tool_use":
            self._calls[index] = len(self._calls)
            call_id, function = read_text(part.get("id"), "id"), read_text(part.get("name"), "name")
            return _of_call(ToolCallDelta(self._calls[index], call_id, function))
        if what == "input_json_delta":
            if index not in self._calls:
                raise Malformed("input_json_delta belongs to no tool_use block")
            text = read_text(part.get("partial_json"), "partial_json")
            return _of_call(ToolCallDelta(self._calls[index], arguments=text)) if text else None
        if what in ("text", "text_delta"):
            text = read_text(part.get("text"), "text")
            return CompletionDelta(0, text) if text else None
        if what in ("thinking", "thinking_delta"):
            text = read_text(part.get("thinking"), "thinking")
            return CompletionDelta(0, reasoning=text) if text else None
        return None

    def _read_end(self, delta: object) -> None:
        reason = delta.get("stop_reason") if isinstance(delta, Mapping) else None
        if reason is None:
            return
        if reason not in _REASONS:
            raise Malformed("delta.stop_reason is not one that the API has")
        stop = delta.get("stop_sequence") if isinstance(delta, Mapping) else None
        if reason in ("pause_turn", "refusal"):
            stop = reason
        self._answer.finish(0, _REASONS[reason], stop if isinstance(stop, str) else None)


def _of_call(call: ToolCallDelta) -> CompletionDelta:
    return CompletionDelta(0, tool_calls=(call,))


def _check(request: GenerateRequest) -> None:
    """Raises: UnsupportedParameter."""
    if request.pooling is not None or request.messages is None:
        what = "prompt" if request.pooling is None else "pooling"
        raise UnsupportedParameter(what, "this upstream takes messages alone.")
    for name in _NO_WORD:
        if getattr(request.sampling, name) != getattr(_DEFAULTS, name):
            raise UnsupportedParameter(name, "Anthropic's API has no such field.")
    if request.sampling.temperature > 1:
        raise UnsupportedParameter("temperature", "Anthropic's API takes 0 to 1.")
    form = request.sampling.structured_outputs
    if form is not None and form.form != "json":
        raise UnsupportedParameter(form.param, "Anthropic's API takes JSON schemas alone.")
    if request.truncate_prompt_tokens is not None:
        raise UnsupportedParameter("truncate_prompt_tokens", "Anthropic's API cuts no prompts.")
    if request.chat_template_kwargs:
        name = next(iter(request.chat_template_kwargs))
        raise UnsupportedParameter(name, "Anthropic's API has no chat template.")


def _conversation(messages: tuple[Message, ...]) -> tuple[str, list[dict[str, Any]]]:
    """System text, and turns that alternate: results of calls are the user's."""
    system = [message.content or "" for message in messages if message.role == "system"]
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return "\n\n".join(system), turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role == "tool":
        result = {"type": "tool_result", "tool_use_id": message.tool_call_id or ""}
        return [result | {"content": message.content or ""}]
    blocks: list[dict[str, Any]] = []
    if message.content:
        blocks.append({"type": "text", "text": message.content})
    for call in message.tool_calls:
        blocks.append(
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)}
        )
    return blocks


def _input(arguments: str) -> Any:
    """A call's arguments as an object; what is none is wrapped, as Anthropic's guide does."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}


def _allowed(request: GenerateRequest) -> list[Tool]:
    names = request.tool_choice.names
    return [tool for tool in request.tools if names is None or tool.name in names]


def _tool(tool: Tool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": tool.name,
        "input_schema": tool.parameters or {"type": "object", "properties": {}},
    }
    if tool.description is not None:
        body["description"] = tool.description
    if tool.is_strict:
        body["strict"] = True
    return body


def _tool_choice(choice: ToolChoice) -> dict[str, Any]:
    body: dict[str, Any] = {} if choice.allows_parallel else {"disable_parallel_tool_use": True}
    if choice.mode == "auto":
        return body | {"type": "auto"}
    if choice.names is not None and len(choice.names) == 1:
        return body | {"type": "tool", "name": choice.names[0]}
    return body | {"type": "any"}


def _error(error: object) -> ErrorEvent:
    if not isinstance(error, Mapping):
        return ErrorEvent("an error without a reason", is_busy=True)
    return ErrorEvent(str(error.get("message"))[:300], is_busy=error.get("type") in _BUSY)
