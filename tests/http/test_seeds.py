"""Seeds beside answers: those that made them, whoever answers, or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.fake_backend import FakeBackend
from fakes.routed import chat, far, route, tiers
from fakes.served_app import RunningServer, run_server
from headrace.core.errors import CapacityError
from headrace.core.request import GenerateRequest

CHAT = "/v1/chat/completions"


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with run_server(FakeBackend()) as running:
        yield running


def seeds_of(client: httpx.Client, stream: bool = False, **fields: Any) -> tuple[str | None, Any]:
    """The seed in the head and the one in the receipt of an answer."""
    body = chat(temperature=1.0, receipt=True, stream=stream, **fields)
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    receipt = json.loads(events[-1] if stream else answer.text)["receipt"]
    return answer.headers.get("x-headrace-seed"), receipt["requests"][0]["seed"]


def test_a_kept_answer_has_the_seed_that_made_it(server: RunningServer) -> None:
    backend = {"model": "tiny", "upstream": "far"}
    settings = {
        "upstreams": {"far": far(f"{server.address}/v1")},
        "tiers": tiers(cheap=[backend]),
        "routing": {"cache": {}},
    }
    with route(settings) as (router, _), router.client() as client:
        made = seeds_of(client)
        kept = [seeds_of(client), seeds_of(client, stream=True)]
        other = seeds_of(client, seed=6)
    used = [request.sampling.seed for request in server.backend.requests[-2:]]
    assert used[1] == 6
    assert made == (str(used[0]), {"value": used[0], "source": "drawn"})
    assert kept == [made, made]
    assert other == ("6", {"value": 6, "source": "request"})


@pytest.mark.parametrize("stream", [False, True])
def test_an_upstream_that_is_sent_no_seed_has_none(server: RunningServer, stream: bool) -> None:
    backend = {"model": "tiny", "upstream": "far"}
    upstream = far(f"{server.address}/v1", refuses=["seed"])
    settings = {"upstreams": {"far": upstream}, "tiers": tiers(cheap=[backend])}
    with route(settings) as (router, _), router.client() as client:
        assert seeds_of(client, stream) == (None, None)
        assert seeds_of(client, stream, seed=6) == (None, None)


def test_an_answer_that_fails_has_no_seed() -> None:

    async def fail(request: GenerateRequest) -> None:
        raise CapacityError("full")

    with run_server(FakeBackend(admission=fail)) as app, app.client() as client:
        answer = client.post(CHAT, json=chat(model="tiny", seed=6))
    assert answer.status_code == 429
    assert "x-headrace-seed" not in answer.headers
