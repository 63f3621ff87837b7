"""Calls of the real server as traces and metrics at a real OTLP receiver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from programs import eventually
from served_model import ServedModel, serve

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from fakes.otlp_receiver import ReceivedSpan, Receiver, otlp_receiver
from fakes.random_model import write_random_model

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SETTINGS = "engine: {memory_bytes: 400MiB}\n"
PROMPT = "the harbour master counts red boats"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_METRIC_EXPORT_INTERVAL": "200"}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServedModel, Receiver]]:
    folder = tmp_path_factory.mktemp("traced")
    (folder / "settings.yaml").write_text(SETTINGS)
    model = write_random_model(folder)
    with otlp_receiver() as receiver:
        options = ("--config", str(folder / "settings.yaml"), "--otlp-endpoint", receiver.address)
        with serve(model, folder, *options, **SOON) as server:
            yield server, receiver


def spans_of(receiver: Receiver, trace_id: str, count: int) -> dict[str, ReceivedSpan]:
    def look() -> list[ReceivedSpan]:
        found = [span for span in list(receiver.spans) if span.trace_id == trace_id]
        return found if len(found) == count else []

    return {span.name: span for span in eventually(look, f"{count} spans of {trace_id}")}


def test_a_call_below_its_callers_span(traced: tuple[ServedModel, Receiver]) -> None:
    server, receiver = traced
    body = {"model": server.model, "prompt": PROMPT, "max_tokens": 4, "ignore_eos": True, "seed": 7}
    with server.client() as client:
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "traced"}
        reply = client.post("/v1/completions", json=body, headers=headers)
    spans = spans_of(receiver, TRACE, 4)
    call = spans[f"text_completion {server.model}"]
    assert (call.parent_id, call.kind, call.is_error) == (SPAN, 2, False)
    assert reply.headers["traceresponse"] == f"00-{TRACE}-{call.span_id}-01"
    usage = reply.json()["usage"]
    wanted = {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "headrace",
        "gen_ai.request.model": server.model,
        "gen_ai.response.model": server.model,
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 1.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stream": False,
        "gen_ai.response.id": reply.json()["id"],
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "headrace.tenant": "default",
        "headrace.request_id": "traced",
    }
    assert {name: call.attributes.get(name) for name in wanted} == wanted
    assert call.attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert call.attributes["gen_ai.response.time_to_first_chunk"] > 0
    queue, prefill, decode = (spans[name] for name in ("queue", "prefill", "decode"))
    assert {span.parent_id for span in (queue, prefill, decode)} == {call.span_id}
    times = [queue.begin_s, prefill.begin_s, decode.begin_s, decode.end_s]
    assert times == sorted(times)
    # The call's clock and the engine's are read one after the other.
    assert call.begin_s - 0.05 <= queue.begin_s
    assert decode.end_s <= call.end_s + 0.05
    assert receiver.resources[0]["service.name"] == "headrace"


def test_a_call_that_fails_and_one_that_is_not_sampled(
    traced: tuple[ServedModel, Receiver],
) -> None:
    server, receiver = traced
    ours, unsampled = "a" * 32, "b" * 32
    with server.client() as client:
        body = {"model": server.model, "prompt": PROMPT, "max_tokens": 1}
        quiet = {"traceparent": f"00-{unsampled}-{SPAN}-00"}
        assert client.post("/v1/completions", json=body, headers=quiet).status_code == 200
        wrong = {"traceparent": f"00-{ours}-{SPAN}-01"}
        reply = client.post("/v1/completions", json=body | {"max_tokens": -1}, headers=wrong)
        assert reply.status_code == 400
    (call,) = spans_of(receiver, ours, 1).values()
    assert call.is_error
    assert call.attributes["error.type"] == reply.json()["error"]["code"]
    assert not [span for span in receiver.spans if span.trace_id == unsampled]


def test_metrics_have_the_conventions_edges_and_nothing_has_the_prompt(
    traced: tuple[ServedModel, Receiver],
) -> None:
    server, receiver = traced
    body = {"model": server.model, "prompt": PROMPT, "max_tokens": 3, "ignore_eos": True}
    with server.client() as client:
        client.post("/v1/completions", json=body)
    names = ("request.duration", "time_to_first_token", "time_per_output_token")
    for name in names:
        eventually(lambda name=name: f"gen_ai.server.{name}" in receiver.histograms, name)
    _, edges, attributes = receiver.histograms["gen_ai.server.request.duration"][0]
    assert (edges[0], edges[-1], len(edges)) == (0.01, 81.92, 14)
    assert attributes["gen_ai.provider.name"] == "headrace"
    (first,) = receiver.histograms["gen_ai.server.time_to_first_token"]
    assert (first[0] >= 1, first[1][0], first[1][-1]) == (True, 0.001, 10.0)
    assert not any(PROMPT.encode() in text for text in receiver.texts)
