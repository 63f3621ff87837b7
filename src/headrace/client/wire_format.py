"""WireFormat: what an upstream's API says in its own words, and what that is in ours.

In: requests and the data of events. Out: bodies, and RequestOutputs. Opens nothing and waits for
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

from headrace.core.errors import UnsupportedParameter
from headrace.core.output import CompletionDelta, FinishReason, RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.upstreams import UpstreamConfig
from headrace.core.usage import Usage
from headrace.economics.token_estimate import estimate_input_tokens, estimate_output_tokens


class Malformed(Exception):
    """What came is not what the API says."""


class ErrorEvent(Exception):
    """The upstream ended its stream with an error. `is_busy`: it is overloaded."""

    def __init__(self, message: str, is_busy: bool) -> None:
        self.is_busy = is_busy
        super().__init__(message)


class AnswerReader(Protocol):
    """Reads one answer, event by event."""

    @property
    def is_over(self) -> bool:
        """Whether the stream has said that nothing more comes."""
        ...

    def read(self, data: bytes) -> RequestOutput | None:
        """What an event adds; None: nothing to pass on. Raises: Malformed, ErrorEvent."""
        ...

    def end(self) -> RequestOutput:
        """The last output, with every finish reason and the usage.

        Raises: Malformed when an answer has not ended.
        """
        ...


class WireFormat(Protocol):
    """An API."""

    def path(self, request: GenerateRequest) -> str:
        """Where the request goes, after the address of the API."""
        ...

    def headers(self, key: str | None) -> dict[str, str]:
        """Who asks, in the words of the API."""
        ...

    def body(self, request: GenerateRequest, config: UpstreamConfig) -> dict[str, Any]:
        """Raises: UnsupportedParameter for what the API cannot be asked for."""
        ...

    def reader(self, request: GenerateRequest, seed: int | None = None) -> AnswerReader:
        """What reads the answer. `seed`: the one that was sent, if any."""
        ...


class AnswerSoFar:
    """What every reader keeps: what was heard, and how each answer ended."""

    def __init__(self, request: GenerateRequest, seed: int | None = None) -> None:
        self._request, self._seed = request, seed
        self._num_heard = self._num_bytes = 0
        self._endings: dict[int, tuple[FinishReason, str | int | None]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every answer has ended."""
        return len(self._endings) >= self._request.sampling.n

    def finish(self, index: int, reason: FinishReason, stop: str | int | None = None) -> None:
        """An answer ended; it is told with the last output, when the usage is known."""
        self._endings[index] = (reason, stop)

    def output(self, deltas: Iterable[CompletionDelta], usage: Usage | None) -> RequestOutput:
        """What was gained. Where the upstream has counted less so far, it goes by lengths."""
        told = tuple(deltas)
        for delta in told:
            self._num_heard += max(1, len(delta.logprobs or ()))
            self._num_bytes += _num_bytes(delta)
        if usage is None:
            usage = self._estimate()
        elif usage.output_tokens < self._num_heard:
            usage = replace(usage, output_tokens=self._num_output_tokens(), is_estimated=True)
        return RequestOutput(self._request.request_id, told, usage, seed=self._seed)

    def last(self, usage: Usage | None) -> RequestOutput:
        """Raises: Malformed when an answer has not ended."""
        if not self.is_complete:
            raise Malformed("the stream ended before the answer did")
        deltas = tuple(
            CompletionDelta(index, finish_reason=reason, stop_reason=stop)
            for index, (reason, stop) in sorted(self._endings.items())
        )
        return RequestOutput(
            self._request.request_id,
            deltas,
            usage or self._estimate(),
            is_finished=True,
            seed=self._seed,
        )

    def _estimate(self) -> Usage:
        num_output = self._num_output_tokens()
        return Usage(self._num_input_tokens, output_tokens=num_output, is_estimated=True)

    def _num_output_tokens(self) -> int:
        """By lengths, and no more than were asked for: a budget holds no more."""
        sampling = self._request.sampling
        limit = sampling.max_tokens or self._request.default_max_tokens
        found = estimate_output_tokens(self._num_heard, self._num_bytes)
        return found if limit is None else max(self._num_heard, min(found, limit * sampling.n))

    @cached_property
    def _num_input_tokens(self) -> int:
        return estimate_input_tokens(self._request)


def _num_bytes(delta: CompletionDelta) -> int:
    """Of all that was written: text, reasoning, calls."""
    texts = [delta.text, delta.reasoning]
    texts += (part for call in delta.tool_calls for part in (call.name or "", call.arguments))
    return sum(len(text.encode("utf-8", "replace")) for text in texts)


def read_object(data: bytes) -> Mapping[str, Any]:
    """The JSON object of an event. Raises: Malformed."""
    try:
        # A text: of bytes json would find out how they are encoded, each time.
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        raise Malformed("an event is not JSON") from None
    if not isinstance(value, dict):
        raise Malformed("an event is not a JSON object")
    return value


def read_text(value: object, name: str) -> str:
    """A text; none is the empty one. Raises: Malformed."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"{name} is not a string")
    return value


def read_objects(value: object, name: str) -> list[Mapping[str, Any]]:
    """A list of objects; none is the empty one. Raises: Malformed."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise Malformed(f"{name} is not a list of objects")
    return value


def read_index(value: object, limit: int, name: str) -> int:
    """A place below `limit`. Raises: Malformed."""
    if type(value) is not int or not 0 <= value < limit:
        raise Malformed(f"{name} is not a place in the answer")
    return value


def refuse_fields(given: Iterable[str], config: UpstreamConfig) -> None:
    """Raises: UnsupportedParameter for a field that the upstream is said not to take."""
    for name in given:
        if name in config.refuses:
            raise UnsupportedParameter(name, f"the upstream {config.name} does not take it.")
