"""CallNotes: what one call asked for and what came back, kept for its receipt.

In: the body, the requests made of it, their outputs. Out: a Receipt and its short form in headers.
Written by the route that answers the call. Knows no dialect but the names of its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from headrace.core.output import RequestOutput, RequestTimes
from headrace.core.receipt import (
    CostReceipt,
    ModelBuild,
    Parameter,
    ParameterSource,
    Receipt,
    RequestReceipt,
    ResolvedRequest,
)
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.structured_outputs import FORMS, StructuredOutputs
from headrace.core.usage import Usage

# Where a field of the body has another name.
_WIRE_NAMES: dict[str, tuple[str, ...]] = {
    "max_tokens": ("max_tokens", "max_completion_tokens", "max_output_tokens"),
    "logprobs": ("logprobs", "top_logprobs"),
    "stop": ("stop", "stop_sequences"),
    "structured_outputs": (
        *("structured_outputs", "response_format"),
        *("text.format", "output_config.format"),
    ),
}
# Each prompt has its own, and `return_token_ids` changes no answer.
_NOT_SHARED = frozenset({"seed", "is_seed_drawn", "max_tokens", "return_token_ids"})
_DEFAULTS = SamplingParams()


@dataclass(slots=True)
class NotedRequest:
    """One prompt's request and what is known of its answers."""

    request: GenerateRequest
    usage: Usage | None = None
    times: RequestTimes | None = None
    resolved: ResolvedRequest | None = None
    prompt_token_ids: Sequence[int] | None = None
    num_dropped_items: int = 0
    has_output: bool = False
    seed: int | None = None
    token_ids: list[list[int]] = field(default_factory=list)
    finish_reasons: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Until somebody answers, who may have another or none.
        self.seed = self.request.sampling.seed
        num_answers = self.request.sampling.n
        self.token_ids = [[] for _ in range(num_answers)]
        self.finish_reasons = [None] * num_answers


def _unknown_cost() -> CostReceipt | None:
    return None


@dataclass(slots=True)
class CallNotes:
    """Empty until the route has read the body. `operation` is the route, by its own path."""

    operation: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    requests: list[NotedRequest] = field(default_factory=list)
    has_server_length: bool = False
    keeps_tokens: bool = False
    cost_of: Callable[[], CostReceipt | None] = _unknown_cost

    def begin(
        self,
        operation: str,
        body: Mapping[str, Any],
        requests: Sequence[GenerateRequest],
        has_server_length: bool,
    ) -> None:
        """`has_server_length`: the length of answers that name none is a setting."""
        self.operation, self.body, self.has_server_length = operation, body, has_server_length
        self.requests = [NotedRequest(request) for request in requests]

    def note(self, index: int, output: RequestOutput) -> None:
        """Keep what an output of request `index` says."""
        noted = self.requests[index]
        noted.has_output, noted.seed = True, output.seed
        noted.usage = output.usage
        noted.times = output.times or noted.times
        noted.resolved = output.resolved or noted.resolved
        noted.prompt_token_ids = output.prompt_token_ids or noted.prompt_token_ids
        if self.keeps_tokens:
            for delta in output.deltas:
                noted.token_ids[delta.index].extend(delta.token_ids)
                noted.finish_reasons[delta.index] = delta.finish_reason

    def receipt(self, build: ModelBuild | None) -> Receipt:
        """The receipt as far as it is known."""
        shared = self.requests[0].request.sampling
        parameters = {
            entry.name: self._parameter(entry.name, getattr(shared, entry.name))
            for entry in fields(SamplingParams)
            if entry.name not in _NOT_SHARED
        }
        return Receipt(
            parameters=parameters,
            requests=tuple(self._request_receipt(noted) for noted in self.requests),
            model=build,
            cost=self.cost_of(),
        )

    def members(
        self, build: ModelBuild | None, shows_receipt: bool, shows_token_ids: bool
    ) -> dict[str, Any]:
        """What the answer to one prompt carries beside itself, where its body asks for it."""
        members: dict[str, Any] = {"receipt": self.receipt(build)} if shows_receipt else {}
        if shows_token_ids:
            (noted,) = self.requests
            members["token_ids"] = noted.token_ids[0]
            if noted.prompt_token_ids is not None:
                members["prompt_token_ids"] = noted.prompt_token_ids
        return members

    def cut_headers(self) -> dict[str, str]:
        """How many tokens of the prompts were cut off, where the call asked for it."""
        known = (noted.resolved for noted in self.requests if noted.resolved is not None)
        num_cut = sum(resolved.num_truncated_tokens for resolved in known)
        return {"x-headrace-truncated-tokens": str(num_cut)} if num_cut else {}

    def seed_headers(self, is_routed: bool) -> dict[str, str]:
        """The seed of the answer to one prompt, as far as it is known.

        `is_routed`: before it answers nobody knows who will.
        """
        if len(self.requests) != 1:
            return {}
        (noted,) = self.requests
        is_known = noted.seed is not None and (noted.has_output or not is_routed)
        return {"x-headrace-seed": str(noted.seed)} if is_known else {}

    def headers(self, build: ModelBuild | None) -> dict[str, str]:
        """What is known before the first byte."""
        headers = {}
        if build is not None:
            engine = f"{build.version} {build.kernels} kv-{build.kv_cache_dtype}"
            headers["x-headrace-engine"] = engine
            if build.sha256 is not None:
                headers["x-headrace-model-sha256"] = build.sha256
            if build.adapter_sha256 is not None:
                headers["x-headrace-adapter-sha256"] = build.adapter_sha256
        return headers

    def _request_receipt(self, noted: NotedRequest) -> RequestReceipt:
        usage, times, resolved = noted.usage, noted.times, noted.resolved
        seed_source: ParameterSource = "request" if self._names("seed") else "drawn"
        return RequestReceipt(
            seed=None if noted.seed is None else Parameter(noted.seed, seed_source),
            max_tokens=self._max_tokens(noted),
            truncated_tokens=resolved.num_truncated_tokens if resolved else None,
            dropped_items=noted.num_dropped_items,
            input_tokens=usage.input_tokens if usage else None,
            cached_tokens=usage.cached_input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            accepted_draft_tokens=usage.accepted_draft_tokens if usage else None,
            rejected_draft_tokens=usage.rejected_draft_tokens if usage else None,
            draft_acceptance=resolved.draft_acceptance if resolved else None,
            preemptions=times.num_preemptions if times else None,
            queue_s=times.queue_s if times else None,
            prefill_s=times.prefill_s if times else None,
            decode_s=times.decode_s if times else None,
        )

    def _max_tokens(self, noted: NotedRequest) -> Parameter:
        value = noted.resolved.max_tokens if noted.resolved else noted.request.sampling.max_tokens
        if self._names("max_tokens"):
            # Where it is an upper bound the context may have left less.
            asked = noted.request.sampling.max_tokens
            asked = noted.request.default_max_tokens if asked is None else asked
            return Parameter(value, "request" if value in (asked, None) else "context")
        if value is not None and value == noted.request.default_max_tokens:
            return Parameter(value, "server" if self.has_server_length else "api")
        return Parameter(value, "context")

    def _parameter(self, name: str, value: object) -> Parameter:
        """Whatever is not the API's default was asked for, under whichever name."""
        is_asked = self._names(name) or value != getattr(_DEFAULTS, name)
        return Parameter(_shown(value), "request" if is_asked else "api")

    def _names(self, name: str) -> bool:
        wire_names = _WIRE_NAMES.get(name, (name,))
        return any(_find(self.body, wire_name) is not None for wire_name in wire_names)


def _find(body: Mapping[str, Any], path: str) -> object:
    """The value of a field, whose name may lead into objects."""
    value: object = body
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _shown(value: object) -> object:
    """Forms by their kind alone: a schema may be long, and the body has it."""
    if isinstance(value, StructuredOutputs):
        return next(name for name in FORMS if getattr(value, name) is not None)
    return value
