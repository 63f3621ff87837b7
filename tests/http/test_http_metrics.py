"""HTTP metrics: by route, whatever path is asked; ORCA headers on demand."""

from __future__ import annotations

import json

import pytest
from programs import eventually

from fakes.served_app import RunningServer
from headrace.core import telemetry

NAMED = "named_metrics"
BODY = {"model": "tiny", "prompt": "hi"}


def counted(server: RunningServer) -> dict[str, float]:
    name = "http_requests_total:"
    counters = dict(server.metrics.counters)
    return {key.removeprefix(name): n for key, n in counters.items() if key.startswith(name)}


def test_requests_are_counted_by_their_route(server: RunningServer) -> None:
    with server.client() as client:
        client.post("/v1/completions", json=BODY)
        client.post("/v1/completions", json={})
        client.get("/v1/models/some/other")
        client.get("/v1/responses/resp_1")
        client.get("/nowhere/1")
        client.get("/nowhere/2")
        client.request("BREW", "/v1/completions")
    eventually(lambda: sum(counted(server).values()) == 7, "all are counted")
    assert counted(server) == {
        "/v1/completions:POST:2xx": 1,
        "/v1/completions:POST:4xx": 1,
        "/v1/models/{name:path}:GET:4xx": 1,
        "/v1/responses/{id}:GET:4xx": 1,
        "none:GET:4xx": 2,
        "/v1/completions:other:4xx": 1,
    }
    observed = server.metrics.observed["http_request_duration_seconds"]
    eventually(lambda: len(observed) == 7, "all are timed")
    assert server.metrics.gauges["headrace:http_requests_in_progress"] == 0


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (
            "TEXT",
            f"TEXT {NAMED}.kv_cache_usage_perc=0.5, {NAMED}.num_requests_waiting=3",
        ),
        ("xml", None),
        (None, None),
    ],
)
def test_the_load_is_told_to_whoever_asks(
    server: RunningServer, wanted: str | None, given: str | None
) -> None:
    server.metrics.set(telemetry.KV_CACHE_USAGE, 0.5)
    server.metrics.set(telemetry.NUM_REQUESTS_WAITING, 3)
    headers = {} if wanted is None else {"endpoint-load-metrics-format": wanted}
    with server.client() as client:
        reply = client.post("/v1/completions", json=BODY, headers=headers)
    assert reply.headers.get("endpoint-load-metrics") == given


def test_the_load_as_json(server: RunningServer) -> None:
    headers = {"endpoint-load-metrics-format": "json"}
    with server.client() as client:
        reply = client.post("/v1/completions", json=BODY, headers=headers)
    kind, _, text = reply.headers["endpoint-load-metrics"].partition(" ")
    named = {"kv_cache_usage_perc": 0.0, "num_requests_waiting": 0}
    assert (kind, json.loads(text)) == ("JSON", {"named_metrics": named})
