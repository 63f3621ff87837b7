"""Target: any server that speaks OpenAI's API, over streams of server-sent events.

In: Asks. Out: what is heard of each answer. Tokens are those of the server's `usage`, asked for
with `stream_options`; a server that sends none fails the request, for chunks are not tokens. Each
request has a connection of its own, and opening it counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import field
from typing import Any, Literal

from headrace.bench.http_exchange import HttpCall, HttpReply, exchange
from headrace.bench.outcome import Hearing, RequestFailed
from headrace.bench.workload import Ask, Prompt
from headrace.client.endpoint import Endpoint
from headrace.client.event_stream import EventStreamDecoder, EventTooLong
from headrace.core.frozen import frozen
from headrace.core.message import Message

Api = Literal["chat", "completions"]
_PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}
_DONE = b"[DONE]"
_MAX_SHOWN = 300


@frozen
class HttpTarget:
    """See load.Target.

    Fields:
        api: which of the two routes is asked.
        ignore_eos: ask for answers of full length; a field of vLLM's that most servers know.
        extra_body: fields put over the body; None removes one.
        api_key: sent as a bearer token.
    """

    endpoint: Endpoint
    model: str
    api: Api = "chat"
    ignore_eos: bool = True
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = field(default=None, repr=False)

    async def send(self, ask: Ask, hearing: Hearing) -> None:
        """See load.Target."""
        call = HttpCall(
            "POST",
            _PATHS[self.api],
            {
                "Content-Type": "application/json",
                "Accept": "text/event-stream",
                **bearer(self.api_key),
            },
            json.dumps(self.body_of(ask)).encode(),
        )
        async with exchange(self.endpoint, call) as reply:
            await check_reply(reply, "text/event-stream")
            await _read_stream(reply, hearing)

    def body_of(self, ask: Ask) -> dict[str, Any]:
        """The JSON object that asks."""
        body: dict[str, Any] = {
            "model": self.model,
            **_prompt_fields(ask.prompt, self.api),
            "max_tokens": ask.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignore_eos:
            body["ignore_eos"] = True
        body |= self.extra_body
        return {name: value for name, value in body.items() if value is not None}


async def list_models(endpoint: Endpoint, api_key: str | None) -> list[str]:
    """Names of the models a server offers.

    Raises: RequestFailed.
    """
    call = HttpCall("GET", "/models", {"Accept": "application/json", **bearer(api_key)})
    async with exchange(endpoint, call) as reply:
        await check_reply(reply, "application/json")
        text = await reply.text(limit_bytes=16 * 1024**2)
    try:
        return [str(model["id"]) for model in json.loads(text)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RequestFailed("bad_reply", f"/models is no list of models: {cut(text)}") from None


def bearer(api_key: str | None) -> dict[str, str]:
    """The header that carries a key."""
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


async def check_reply(reply: HttpReply, content_type: str) -> None:
    """See that the server agreed and answers in the form that was asked for.

    Raises: RequestFailed.
    """
    if reply.status != 200:
        where = reply.headers.get("location")
        text = await reply.text()
        said = _error_message(text) + (f" (to {where})" if where else "")
        raise RequestFailed(f"http_{reply.status}", said or "no message", _error_code(text))
    given = reply.headers.get("content-type", "none").partition(";")[0].strip().lower()
    if given != content_type:
        said = cut(await reply.text(_MAX_SHOWN))
        raise RequestFailed("bad_reply", f"content-type {given}, expected {content_type}: {said}")


async def _read_stream(reply: HttpReply, hearing: Hearing) -> None:
    decoder = EventStreamDecoder()
    is_finished = False
    async with aclosing(reply.pieces()) as pieces:
        async for piece, now_s in pieces:
            try:
                events = decoder.feed(piece)
            except EventTooLong as error:
                raise RequestFailed("bad_stream", str(error)) from None
            for data in events:
                if data == _DONE:
                    return _check_end(is_finished)
                is_finished = _take_chunk(_decode(data), hearing, now_s) or is_finished
    # Without [DONE]: complete all the same when the finish reason and the usage have come.
    _check_end(is_finished and hearing.output_tokens is not None and not decoder.has_partial)


def _check_end(is_complete: bool) -> None:
    if not is_complete:
        raise RequestFailed("truncated", "the stream ended before the answer did")


def _decode(data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        shown = cut(data.decode("utf-8", "replace"))
        raise RequestFailed("bad_stream", f"an event is not JSON: {shown}") from None
    if not isinstance(chunk, dict):
        shown = cut(data.decode("utf-8", "replace"))
        raise RequestFailed("bad_stream", f"an event is not an object: {shown}")
    return chunk


def _take_chunk(chunk: dict[str, Any], hearing: Hearing, now_s: float) -> bool:
    """Note what a chunk brings; returns whether it ends the answer.

    Mutates: hearing.
    Raises: RequestFailed.
    """
    if chunk.get("error"):
        raise RequestFailed("error_event", _error_message(json.dumps(chunk)))
    try:
        choices = chunk.get("choices") or []
        if any(_has_text(choice) for choice in choices):
            hearing.event_s.append(now_s)
        _take_usage(chunk.get("usage") or {}, hearing)
        return any(choice.get("finish_reason") for choice in choices)
    except (AttributeError, TypeError):
        shown = cut(json.dumps(chunk))
        raise RequestFailed("bad_stream", f"an event has an unknown shape: {shown}") from None


def _has_text(choice: dict[str, Any]) -> bool:
    """Whether a choice gained text of any kind: an answer, thoughts, a call of a tool."""
    delta = choice.get("delta") or {}
    names = ("content", "reasoning_content", "reasoning", "tool_calls")
    return bool(choice.get("text")) or any(delta.get(name) for name in names)


def _take_usage(usage: dict[str, Any], hearing: Hearing) -> None:
    """Mutates: hearing. Some servers send a running total with every chunk; the last one stays."""
    for name, place in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")):
        if type(usage.get(name)) is int:
            setattr(hearing, place, usage[name])
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if type(cached) is int:
        hearing.cached_input_tokens = cached


def _prompt_fields(prompt: Prompt, api: Api) -> dict[str, Any]:
    """The prompt as the route takes it."""
    if isinstance(prompt, str):
        if api == "completions":
            return {"prompt": prompt}
        return {"messages": [{"role": "user", "content": prompt}]}
    if isinstance(prompt[0], Message):
        messages = [
            {"role": m.role, "content": m.content} for m in prompt if isinstance(m, Message)
        ]
        return {"messages": messages}
    return {"prompt": list(prompt)}


def _error_message(text: str) -> str:
    """What a server says went wrong: OpenAI's error object, else the beginning of the body."""
    try:
        error = json.loads(text)["error"]
        return cut(str(error["message"] if isinstance(error, dict) else error))
    except (ValueError, KeyError, TypeError, RecursionError):
        return cut(text.strip())


def _error_code(text: str) -> str | None:
    try:
        code = json.loads(text)["error"]["code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return code if isinstance(code, str) else None


def cut(text: str) -> str:
    """The beginning of what a server said, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 3] + "..."
