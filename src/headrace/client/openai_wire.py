"""OpenAIWire: chat completions and completions, streamed.

In: requests and the data of chunks. Out: bodies and RequestOutputs. What other servers of this API
add to chunks (reasoning, token ids) is read where it is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from headrace.client.openai_body import make_body
from headrace.client.wire_format import (
    AnswerSoFar,
    ErrorEvent,
    Malformed,
    read_index,
    read_object,
    read_objects,
    read_text,
)
from headrace.core.output import (
    CompletionDelta,
    FinishReason,
    PositionLogprobs,
    RequestOutput,
    TokenLogprob,
    ToolCallDelta,
)
from headrace.core.request import GenerateRequest
from headrace.core.upstreams import UpstreamConfig
from headrace.economics.usage_formats import StreamUsage

_DONE = b"[DONE]"
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "stop",
    "repetition": "repetition",
}
_BUSY = frozenset({"rate_limit_error", "overloaded_error", "server_error", "rate_limit_exceeded"})
MAX_TOOL_CALLS = 1024
# Nobody says which token it is.
_NO_ID = -1


class OpenAIWire:
    """See WireFormat."""

    def path(self, request: GenerateRequest) -> str:
        """See WireFormat."""
        return "/chat/completions" if request.messages is not None else "/completions"

    def headers(self, key: str | None) -> dict[str, str]:
        """See WireFormat."""
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def body(self, request: GenerateRequest, config: UpstreamConfig) -> dict[str, Any]:
        """See WireFormat."""
        return make_body(request, config)

    def reader(self, request: GenerateRequest, seed: int | None = None) -> OpenAIReader:
        """See WireFormat."""
        return OpenAIReader(request, seed)


class OpenAIReader:
    """See AnswerReader."""

    def __init__(self, request: GenerateRequest, seed: int | None = None) -> None:
        self._request, self._answer = request, AnswerSoFar(request, seed)
        self._usage = StreamUsage("openai_chat")
        self.is_over = False

    def read(self, data: bytes) -> RequestOutput | None:
        """See AnswerReader."""
        if data.strip() == _DONE:
            self.is_over = True
            return None
        chunk = read_object(data)
        if chunk.get("error"):
            raise _error(chunk["error"])
        self._usage.see(chunk)
        deltas = [
            delta
            for choice in read_objects(chunk.get("choices"), "choices")
            if (delta := self._read_choice(choice)) is not None
        ]
        return self._answer.output(deltas, self._usage.usage) if deltas else None

    def end(self) -> RequestOutput:
        """See AnswerReader."""
        return self._answer.last(self._usage.usage)

    def _read_choice(self, choice: Mapping[str, Any]) -> CompletionDelta | None:
        index = read_index(choice.get("index", 0), self._request.sampling.n, "choices[].index")
        reason = choice.get("finish_reason")
        if reason is not None:
            stop = choice.get("stop_reason")
            if reason == "content_filter":
                stop = reason
            if reason not in _REASONS:
                raise Malformed("choices[].finish_reason is not one that the API has")
            is_stop = isinstance(stop, str | int) and not isinstance(stop, bool)
            self._answer.finish(index, _REASONS[reason], stop if is_stop else None)
        calls: tuple[ToolCallDelta, ...] = ()
        if self._request.messages is None:
            text, reasoning = read_text(choice.get("text"), "choices[].text"), ""
            logprobs = _read_old_logprobs(choice.get("logprobs"))
        else:
            text, reasoning, calls = _read_delta(choice.get("delta"))
            logprobs = _read_logprobs(choice.get("logprobs"))
        token_ids = choice.get("token_ids")
        ids = tuple(token_ids) if isinstance(token_ids, list) else ()
        if not (text or reasoning or calls or logprobs or ids):
            return None
        return CompletionDelta(index, text, ids, logprobs, reasoning=reasoning, tool_calls=calls)


def _read_delta(delta: object) -> tuple[str, str, tuple[ToolCallDelta, ...]]:
    if delta is None:
        return "", "", ()
    if not isinstance(delta, Mapping):
        raise Malformed("choices[].delta is not an object")
    text = read_text(delta.get("content"), "delta.content")
    # What a model says when it will not answer is its answer.
    text += read_text(delta.get("refusal"), "delta.refusal")
    name = "reasoning" if delta.get("reasoning") is not None else "reasoning_content"
    reasoning = read_text(delta.get(name), f"delta.{name}")
    return text, reasoning, tuple(_read_calls(delta.get("tool_calls")))


def _read_calls(calls: object) -> Iterator[ToolCallDelta]:
    for call in read_objects(calls, "delta.tool_calls"):
        function = call.get("function") or {}
        if not isinstance(function, Mapping):
            raise Malformed("tool_calls[].function is not an object")
        yield ToolCallDelta(
            read_index(call.get("index", 0), MAX_TOOL_CALLS, "tool_calls[].index"),
            read_text(call.get("id"), "tool_calls[].id") or None,
            read_text(function.get("name"), "tool_calls[].function.name") or None,
            read_text(function.get("arguments"), "tool_calls[].function.arguments"),
        )


def _read_logprobs(value: object) -> tuple[PositionLogprobs, ...] | None:
    if not isinstance(value, Mapping) or value.get("content") is None:
        return None
    positions = []
    for entry in read_objects(value["content"], "logprobs.content"):
        others = read_objects(entry.get("top_logprobs"), "top_logprobs")
        top = tuple(_token(other, rank) for rank, other in enumerate(others, 1))
        found = (rank for rank, other in enumerate(top, 1) if other.token == entry.get("token"))
        positions.append(PositionLogprobs(_token(entry, next(found, len(top) + 1)), top))
    return tuple(positions)


def _token(entry: Mapping[str, Any], rank: int) -> TokenLogprob:
    token, logprob = read_text(entry.get("token"), "logprobs.token"), entry.get("logprob")
    if not isinstance(logprob, int | float) or isinstance(logprob, bool):
        raise Malformed("logprobs.logprob is not a number")
    given = entry.get("bytes")
    try:
        exact = bytes(given) if isinstance(given, list) else token.encode("utf-8", "replace")
    except (ValueError, TypeError):
        raise Malformed("logprobs.bytes are not bytes") from None
    return TokenLogprob(_NO_ID, token, exact, float(logprob), rank)


def _read_old_logprobs(value: object) -> tuple[PositionLogprobs, ...] | None:
    """Those of completions: a list for each of tokens, logprobs and alternatives."""
    if not isinstance(value, Mapping) or not isinstance(value.get("tokens"), list):
        return None
    tokens, chosen = value["tokens"], value.get("token_logprobs") or []
    tops = value.get("top_logprobs") or [None] * len(tokens)
    if not isinstance(chosen, list) or not len(tokens) == len(chosen) == len(tops):
        raise Malformed("logprobs has lists of different lengths")
    positions = []
    for token, logprob, others in zip(tokens, chosen, tops, strict=True):
        ranked = sorted((others or {}).items(), key=lambda pair: -pair[1])
        top = tuple(
            _token({"token": text, "logprob": number}, rank)
            for rank, (text, number) in enumerate(ranked, 1)
        )
        found = (other.rank for other in top if other.token == token)
        entry = {"token": token, "logprob": logprob}
        positions.append(PositionLogprobs(_token(entry, next(found, len(top) + 1)), top))
    return tuple(positions)


def _error(error: object) -> ErrorEvent:
    if not isinstance(error, Mapping):
        return ErrorEvent(str(error)[:300], is_busy=True)
    message = error.get("message")
    kind, code = error.get("type"), error.get("code")
    return ErrorEvent(str(message)[:300], is_busy=kind in _BUSY or code in _BUSY)
