"""Receipts: what was in effect and where it came from, the same streamed and whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fakes.fake_backend import FakeBackend
from fakes.running_engine import MODEL, ask, collect, running_engine
from fakes.served_app import FixedMetrics, RunningServer, run_server
from headrace.core.config import ServerConfig
from headrace.core.receipt import ModelBuild
from headrace.server.app import HeadraceApp
from headrace.server.services import Services

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, ANTHROPIC = "/v1/responses", "/v1/messages"
MESSAGES = [{"role": "user", "content": "hi"}]
CONTENT: dict[str, dict[str, Any]] = {
    CHAT: {"messages": MESSAGES},
    COMPLETIONS: {"prompt": "hi"},
    RESPONSES: {"input": "hi", "store": False},
    ANTHROPIC: {"messages": MESSAGES, "max_tokens": 100},
}
BUILD = ModelBuild("tiny.gguf", "ab" * 32, "9.9", "cpu-generic", "bf16")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_server(FakeBackend(num_cached_tokens=1), build_of={"tiny": BUILD}.get) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def post(client: httpx.Client, path: str, **body: Any) -> httpx.Response:
    answer = client.post(path, json={"model": "tiny"} | CONTENT[path] | body)
    assert answer.status_code == 200, answer.text
    return answer


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
    assert answer.text.endswith("data: [DONE]\n\n")
    return [json.loads(line[6:]) for line in lines]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_nothing_is_said_unasked(client: httpx.Client, path: str) -> None:
    assert "receipt" not in post(client, path).json()
    assert "receipt" not in post(client, path, receipt=False).json()
    streamed = chunks(post(client, path, stream=True, stream_options={"include_usage": True}))
    assert not any("receipt" in chunk for chunk in streamed)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_receipt_names_every_parameter_and_its_source(client: httpx.Client, path: str) -> None:
    receipt = post(
        client, path, receipt=True, temperature=0.5, seed=-3, stop=["x"], max_tokens=2
    ).json()["receipt"]
    parameters = receipt["parameters"]
    assert parameters["temperature"] == {"value": 0.5, "source": "request"}
    assert parameters["stop"] == {"value": ["x"], "source": "request"}
    assert parameters["top_p"] == {"value": 1.0, "source": "api"}
    assert {entry["source"] for entry in parameters.values()} == {"request", "api"}
    assert receipt["model"] == {
        "file": "tiny.gguf",
        "sha256": "ab" * 32,
        "version": "9.9",
        "kernels": "cpu-generic",
        "kv_cache_dtype": "bf16",
        "adapter": None,
        "adapter_sha256": None,
    }
    assert receipt["requests"] == [
        {
            "seed": {"value": -3, "source": "request"},
            "max_tokens": {"value": 2, "source": "request"},
            "truncated_tokens": 0,
            "dropped_items": 0,
            "input_tokens": 2,
            "cached_tokens": 1,
            "output_tokens": 2,
            "accepted_draft_tokens": 0,
            "rejected_draft_tokens": 0,
            "draft_acceptance": None,
            "preemptions": 0,
            "queue_s": 0.001,
            "prefill_s": 0.002,
            "decode_s": 0.003,
        }
    ]


def test_fields_with_other_names_on_the_wire(client: httpx.Client) -> None:
    receipt = post(
        client,
        CHAT,
        receipt=True,
        max_completion_tokens=3,
        max_tokens=2,
        logprobs=True,
        top_logprobs=2,
        response_format={"type": "json_object"},
    ).json()["receipt"]
    # The one that wins when both lengths are given is the one that is shown.
    assert receipt["requests"][0]["max_tokens"] == {"value": 3, "source": "request"}
    assert receipt["parameters"]["logprobs"] == {"value": 2, "source": "request"}
    form = {"value": "json_object", "source": "request"}
    assert receipt["parameters"]["structured_outputs"] == form


@pytest.mark.parametrize("has_usage", [False, True])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_stream_ends_with_the_receipt_of_the_whole_answer(
    client: httpx.Client, path: str, has_usage: bool
) -> None:
    whole = post(client, path, receipt=True, seed=1).json()
    options = {"stream_options": {"include_usage": True}} if has_usage else {}
    *others, last = chunks(post(client, path, receipt=True, seed=1, stream=True, **options))
    assert last["receipt"] == whole["receipt"]
    assert last["choices"] == []
    assert last.get("usage") == (whole["usage"] if has_usage else None)
    assert not any("receipt" in chunk for chunk in others)


OTHER_NAMES: dict[str, dict[str, Any]] = {
    RESPONSES: {
        "max_output_tokens": 2,
        "include": ["message.output_text.logprobs"],
        "text": {"format": {"type": "json_object"}},
        "stop": ["x"],
    },
    ANTHROPIC: {
        "max_tokens": 2,
        "stop_sequences": ["x"],
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    },
}


def last_event(answer: httpx.Response, kind: str) -> dict[str, Any]:
    """The event of that type. Of responses it has the whole response."""
    lines = [line for line in answer.text.splitlines() if line.startswith("data: {")]
    (event,) = [event for line in lines if (event := json.loads(line[6:]))["type"] == kind]
    whole: dict[str, Any] = event.get("response", event)
    return whole


@pytest.mark.parametrize("path", [RESPONSES, ANTHROPIC])
def test_receipts_of_the_other_apis(client: httpx.Client, path: str) -> None:
    body = OTHER_NAMES[path] | {"temperature": 0.5, "seed": 4}
    plain = post(client, path, **body)
    whole = post(client, path, receipt=True, return_token_ids=True, **body)
    streamed = post(client, path, receipt=True, return_token_ids=True, stream=True, **body)
    kind = "response.incomplete" if path == RESPONSES else "message_delta"
    last = last_event(streamed, kind)
    ours = ("receipt", "token_ids", "prompt_token_ids")
    assert not any(name in plain.json() for name in ours)
    assert [whole.json()[name] for name in ours] == [last[name] for name in ours]
    assert streamed.text.count('"receipt"') == streamed.text.count('"token_ids"') == 1
    assert whole.json()["token_ids"] == [1000, 1001]
    assert whole.json()["prompt_token_ids"] == [104, 105]
    receipt = whole.json()["receipt"]
    asked = {name for name, entry in receipt["parameters"].items() if entry["source"] != "api"}
    more = {"logprobs"} if path == RESPONSES else set()
    assert asked == {"temperature", "stop", "structured_outputs"} | more
    assert receipt["parameters"]["stop"]["value"] == ["x"]
    (entry,) = receipt["requests"]
    assert entry["seed"] == {"value": 4, "source": "request"}
    assert entry["max_tokens"] == {"value": 2, "source": "request"}
    assert (entry["input_tokens"], entry["cached_tokens"], entry["output_tokens"]) == (2, 1, 2)
    assert receipt["model"]["sha256"] == "ab" * 32
    for answer in (plain, whole, streamed):
        assert answer.headers["x-headrace-seed"] == "4"
        assert answer.headers["x-headrace-engine"] == "9.9 cpu-generic kv-bf16"
        assert answer.headers["x-headrace-model-sha256"] == "ab" * 32


@pytest.mark.parametrize("path", [RESPONSES, ANTHROPIC])
def test_other_apis_draw_a_seed_and_say_so(
    server: RunningServer, client: httpx.Client, path: str
) -> None:
    answer = post(client, path, receipt=True)
    seed = answer.json()["receipt"]["requests"][0]["seed"]
    assert seed["source"] == "drawn"
    assert answer.headers["x-headrace-seed"] == str(seed["value"])
    assert server.backend.requests[-1].sampling.seed == seed["value"]


def test_an_upper_bound_that_the_context_lowers() -> None:
    backend = FakeBackend(resolved_max_tokens=7)
    with run_server(backend) as server, server.client() as client:
        receipt = post(client, ANTHROPIC, receipt=True).json()["receipt"]
    assert receipt["requests"][0]["max_tokens"] == {"value": 7, "source": "context"}


def test_lengths_nobody_asked_for() -> None:
    for default, expected in ((None, "context"), (3, "server")):
        backend = FakeBackend()
        config = ServerConfig(port=0, default_max_tokens=default)
        with run_server(backend, config) as server, server.client() as client:
            chat = post(client, CHAT, receipt=True).json()["receipt"]
            text = post(client, COMPLETIONS, receipt=True).json()["receipt"]
        assert chat["requests"][0]["max_tokens"] == {"value": default or 5, "source": expected}
        source = "server" if default else "api"
        assert text["requests"][0]["max_tokens"] == {"value": default or 16, "source": source}
        assert chat["model"] is None


def test_a_drawn_seed_is_shown_and_was_used(server: RunningServer, client: httpx.Client) -> None:
    seen = set()
    for stream in (False, True):
        answer = post(client, CHAT, receipt=True, stream=stream)
        receipt = (chunks(answer)[-1] if stream else answer.json())["receipt"]
        seed = receipt["requests"][0]["seed"]
        assert seed["source"] == "drawn"
        assert answer.headers["x-headrace-seed"] == str(seed["value"])
        assert server.backend.requests[-1].sampling.seed == seed["value"]
        assert 0 <= seed["value"] < 2**53
        seen.add(seed["value"])
    assert len(seen) == 2


def test_every_prompt_has_an_entry_and_its_own_drawn_seed(client: httpx.Client) -> None:
    answer = post(client, COMPLETIONS, receipt=True, prompt=["a", "bcd"], n=2)
    first, second = answer.json()["receipt"]["requests"]
    assert (first["input_tokens"], second["input_tokens"]) == (1, 3)
    assert first["seed"]["value"] != second["seed"]["value"]
    assert "x-headrace-seed" not in answer.headers
    given = post(client, COMPLETIONS, receipt=True, prompt=["a", "b"], seed=5).json()["receipt"]
    assert {entry["seed"]["value"] for entry in given["requests"]} == {5}


def test_headers_say_what_is_known_before_the_first_byte(client: httpx.Client) -> None:
    for stream in (False, True):
        headers = post(client, CHAT, stream=stream, seed=7).headers
        assert headers["x-headrace-seed"] == "7"
        assert headers["x-headrace-engine"] == "9.9 cpu-generic kv-bf16"
        assert headers["x-headrace-model-sha256"] == "ab" * 32


def test_a_page_in_a_browser_may_read_them() -> None:
    config = ServerConfig(port=0, cors_origins=("https://app.example.org",))
    with run_server(config=config, build_of={"tiny": BUILD}.get) as app, app.client() as client:
        client.headers["origin"] = "https://app.example.org"
        headers = post(client, CHAT).headers
    exposed = headers["access-control-expose-headers"].split(", ")
    ours = {name for name in headers if name.startswith("x-headrace-")}
    assert len(ours) == 3
    assert ours <= set(exposed)


def test_a_wrong_receipt_field_is_refused(client: httpx.Client) -> None:
    answer = client.post(CHAT, json={"model": "tiny", "messages": MESSAGES, "receipt": "yes"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "receipt"


def test_what_the_real_engine_resolves() -> None:
    async def run() -> None:
        async with running_engine() as running:
            cut = await collect(
                running.backend, ask("0123456789", truncate_prompt_tokens=4, max_tokens=None)
            )
            whole = await collect(running.backend, ask("0123456789", max_tokens=3, n=2))
        assert cut.resolved is not None and whole.resolved is not None
        assert cut.resolved.num_truncated_tokens == 6
        assert cut.resolved.max_tokens == cut.usage.output_tokens
        assert (whole.resolved.num_truncated_tokens, whole.resolved.max_tokens) == (0, 3)

    asyncio.run(run())


def test_the_real_engine_behind_the_route() -> None:
    async def run() -> dict[str, Any]:
        async with running_engine() as running:
            app = HeadraceApp(Services(running.backend, ServerConfig(), FixedMetrics(), "9.9"))
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                body = {"model": MODEL, "prompt": "0123456789", "receipt": True, "max_tokens": 3}
                answer = await client.post(COMPLETIONS, json=body | {"truncate_prompt_tokens": 4})
        entry: dict[str, Any] = answer.json()["receipt"]["requests"][0]
        return entry

    entry = asyncio.run(run())
    assert (entry["truncated_tokens"], entry["input_tokens"], entry["output_tokens"]) == (6, 4, 3)
    assert min(entry["queue_s"], entry["prefill_s"], entry["decode_s"]) >= 0


@pytest.mark.parametrize("path", CONTENT)
def test_a_drawn_seed_is_known_to_be_one(client: httpx.Client, path: str) -> None:
    """The caller is told of it, and the engine that nobody was promised the same again."""
    answer = post(client, path, receipt=True)
    seed = answer.json()["receipt"]["requests"][0]["seed"]
    assert seed["source"] == "drawn"
    assert answer.headers["x-headrace-seed"] == str(seed["value"])
    given = post(client, path, receipt=True, seed=5)
    assert given.json()["receipt"]["requests"][0]["seed"] == {"value": 5, "source": "request"}
