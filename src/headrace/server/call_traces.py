"""CallTraces: calls as spans and histograms of the gen_ai conventions.

In: calls that have ended. Out: a span for the call, below it one for the queue, the prefill and the
decoding of each prompt; measurements. Prompts and answers are in none of them. All names of the
conventions are here, because they are still being changed.
Source: open-telemetry/semantic-conventions-genai, status Development.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from headrace.core.request import GenerateRequest
from headrace.core.tracing import AttributeValue, Span, SpanSink, TraceContext, TracedHistogram
from headrace.economics.call_watch import AttemptEnd, CallEnd
from headrace.economics.prices import LOCAL

_PROVIDER = "headrace"
# Calls that ended before there was a request are known by their path.
_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
REQUEST_DURATION = TracedHistogram(
    "gen_ai.server.request.duration",
    "Time from the call to the end of its answer.",
    tuple(0.01 * 2**power for power in range(14)),
)
TIME_TO_FIRST_TOKEN = TracedHistogram(
    "gen_ai.server.time_to_first_token",
    "Time from the call to its first token.",
    (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
        *(1.0, 2.5, 5.0, 7.5, 10.0),
    ),
)
TIME_PER_OUTPUT_TOKEN = TracedHistogram(
    "gen_ai.server.time_per_output_token",
    "Time between tokens after the first one.",
    (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)


class CallTraces:
    """A CallWatcher."""

    def __init__(self, sink: SpanSink, host: str, port: int) -> None:
        """`host` and `port` are where the server listens; port 0 is not told."""
        self._sink = sink
        self._server: dict[str, AttributeValue] = {"server.address": host}
        if port:
            self._server["server.port"] = port

    def ended(self, call: CallEnd) -> None:
        """See CallWatcher."""
        operation = _operation(call)
        if operation is None:
            return
        shared = self._shared(call, operation)
        self._observe(call, shared)
        context = call.trace
        if context is None or not context.is_sampled:
            return
        model = call.row.model
        end_s = call.begin_s + (call.row.duration_s or 0.0)
        self._sink.add(
            Span(
                operation if model is None else f"{operation} {model}",
                context,
                call.begin_s,
                end_s,
                "server",
                shared | _span_attributes(call),
                call.row.error,
            )
        )
        for span in _phases(context, call.attempts):
            self._sink.add(span)

    def _shared(self, call: CallEnd, operation: str) -> dict[str, AttributeValue]:
        """Attributes of spans and of measurements."""
        row = call.row
        shared: dict[str, AttributeValue] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": _PROVIDER if row.provider in (None, LOCAL) else row.provider,
            **self._server,
        }
        if row.model is not None:
            shared |= {"gen_ai.request.model": row.model, "gen_ai.response.model": row.model}
        if row.error is not None:
            shared["error.type"] = row.error
        return shared

    def _observe(self, call: CallEnd, shared: Mapping[str, AttributeValue]) -> None:
        row, sink = call.row, self._sink
        sink.observe(REQUEST_DURATION, row.duration_s or 0.0, shared)
        if row.first_token_s is not None:
            sink.observe(TIME_TO_FIRST_TOKEN, row.first_token_s, shared)
        for attempt in call.attempts:
            if attempt.times is not None and attempt.usage is not None:
                num_later = attempt.usage.output_tokens - attempt.request.sampling.n
                if num_later > 0:
                    rate_s = attempt.times.decode_s * attempt.request.sampling.n / num_later
                    sink.observe(TIME_PER_OUTPUT_TOKEN, rate_s, shared)


def _operation(call: CallEnd) -> str | None:
    """None for calls that are no work of a model, such as counting tokens."""
    if not call.attempts:
        return _OPERATIONS.get(call.row.operation)
    request = call.attempts[0].request
    if request.pooling is not None:
        return "embeddings"
    return "text_completion" if request.messages is None else "chat"


def _span_attributes(call: CallEnd) -> dict[str, AttributeValue]:
    row = call.row
    found: dict[str, AttributeValue | None] = {
        "gen_ai.response.time_to_first_chunk": row.first_token_s,
        "gen_ai.request.stream": call.is_stream,
        "http.response.status_code": row.http_status,
        "headrace.cost.usd": None if row.cost_nano_usd is None else row.cost_nano_usd / 1e9,
        "headrace.tenant": row.tenant,
        "headrace.request_id": row.request_id,
    }
    if row.finish_reason is not None:
        found["gen_ai.response.finish_reasons"] = row.finish_reason.split(",")
    if row.usage_source != "none":
        found |= {
            "gen_ai.usage.input_tokens": row.input_tokens,
            "gen_ai.usage.output_tokens": row.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": row.cached_input_tokens,
            "gen_ai.usage.cache_creation.input_tokens": row.cache_write_tokens,
            "gen_ai.usage.reasoning.output_tokens": row.reasoning_tokens,
        }
    if call.attempts:
        found |= _request_attributes(call.attempts[0].request)
    return {name: value for name, value in found.items() if value is not None}


def _request_attributes(request: GenerateRequest) -> dict[str, AttributeValue | None]:
    """Of a call of several prompts the first one's: they differ in seeds and lengths alone."""
    sampling = request.sampling
    answer_id, _, _ = request.request_id.rpartition("-")
    found: dict[str, AttributeValue | None] = {
        "gen_ai.response.id": answer_id.rpartition("-")[0] or request.request_id
    }
    if request.pooling is not None:
        return found
    return found | {
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k if sampling.top_k > 0 else None,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.stop_sequences": list(sampling.stop) or None,
        "gen_ai.request.choice.count": sampling.n if sampling.n > 1 else None,
    }


def _phases(context: TraceContext, attempts: Iterable[AttemptEnd]) -> Iterable[Span]:
    """Where the time of each prompt went, counted back from its end."""
    for attempt in attempts:
        times, end_s = attempt.times, attempt.end_s
        if times is None or end_s is None:
            continue
        for name, length_s in (
            ("decode", times.decode_s),
            ("prefill", times.prefill_s),
            ("queue", times.queue_s),
        ):
            yield Span(name, context.child(), end_s - length_s, end_s)
            end_s -= length_s
