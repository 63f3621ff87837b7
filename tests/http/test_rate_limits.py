"""Limits of a key over HTTP: 429 with a time to wait, headers, and room that comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from test_disconnect import raw_post, read_until, wait_at

from fakes.fake_backend import FakeBackend
from fakes.fake_clock import FakeClock
from fakes.served_app import RunningServer, run_server
from fakes.usage import eventually
from headrace.core.errors import CapacityError
from headrace.core.request import GenerateRequest
from headrace.core.stores import ApiKey, KeyLimits
from headrace.economics.accounts import Accounts
from headrace.store.key_ring import StoredKey, StoredKeys, hash_secret

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SECRET = "hr_k_secret"  # noqa: S105 - of this test only
BODY: dict[str, Any] = {"model": "tiny", "prompt": "abc", "max_tokens": 5}


class Limited:
    """A server with one key and a clock that stands still."""

    def __init__(self, server: RunningServer, clock: FakeClock, client: httpx.Client) -> None:
        self.server, self.clock, self.client = server, clock, client

    def post(self, path: str = COMPLETIONS, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {SECRET}"}
        return self.client.post(path, json=BODY | body, headers=headers)


@contextmanager
def limited(backend: FakeBackend | None = None, **limits: int) -> Iterator[Limited]:
    key = ApiKey(id="k", name="k", tenant="t", scopes=("inference",), limits=KeyLimits(**limits))
    clock = FakeClock()
    accounts = Accounts(keys=StoredKeys([StoredKey(key, hash_secret(SECRET))]))
    with run_server(backend, accounts=accounts, clock=clock) as server, server.client() as client:
        yield Limited(server, clock, client)


def left(answer: httpx.Response, what: str) -> int:
    return int(answer.headers[f"x-ratelimit-remaining-{what}"])


def test_requests_per_minute() -> None:
    with limited(requests_per_minute=3) as serving:
        answers = [serving.post() for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [left(answer, "requests") for answer in answers] == [2, 1, 0, 0]
        refused = answers[-1]
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert "limited to 3 requests per minute" in error["message"]
        assert (refused.headers["retry-after"], refused.headers["retry-after-ms"]) == (
            "20",
            "20000",
        )
        assert len(serving.server.backend.requests) == 3
        serving.clock.advance(19.9)
        assert serving.post().status_code == 429
        serving.clock.advance(0.2)
        assert serving.post().status_code == 200


def test_the_client_library_sees_a_rate_limit() -> None:
    with limited(requests_per_minute=1) as serving, serving.server.openai(SECRET) as client:
        raw = client.completions.with_raw_response.create(**BODY)
        assert raw.headers["x-ratelimit-limit-requests"] == "1"
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(**BODY)
        assert caught.value.code == "rate_limit_exceeded"


def test_tokens_are_held_by_the_longest_answer_and_settled_to_the_real_one() -> None:
    with limited(output_tokens_per_minute=100, input_tokens_per_minute=50) as serving:
        first = serving.post(max_tokens=90)
        # 3 bytes are estimated as 2 tokens and are 3; the answer has 5 of 90 tokens.
        assert (left(first, "output-tokens"), left(first, "input-tokens")) == (95, 47)
        assert serving.post(max_tokens=96).status_code == 429
        assert serving.post(max_tokens=95).status_code == 200


def test_headers_of_a_stream_show_what_is_held() -> None:
    backend = FakeBackend(before_step=wait_at(1))
    with limited(backend, output_tokens_per_minute=100) as serving:
        headers, body = {"Authorization": f"Bearer {SECRET}"}, BODY | {"max_tokens": 40}
        with serving.client.stream(
            "POST", COMPLETIONS, json=body | {"stream": True}, headers=headers
        ) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert left(answer, "tokens") == 60
            assert answer.headers["x-ratelimit-reset-tokens"] == "24s"


@pytest.mark.parametrize(
    ("body", "most"),
    [
        ({"max_tokens": 101}, "at most 100,"),
        ({"max_tokens": 60, "n": 2}, "at most 50 tokens for each of 2 answers,"),
        ({"max_tokens": 40, "prompt": ["a", "b", "c"]}, "at most 33 tokens for each of 3 answers,"),
    ],
)
def test_an_answer_that_never_fits_is_refused_for_good(body: dict[str, Any], most: str) -> None:
    with limited(output_tokens_per_minute=100) as serving:
        refused = serving.post(**body)
        error = refused.json()["error"]
        assert (refused.status_code, error["param"]) == (400, "max_tokens")
        assert error["message"].startswith(f"max_tokens is {body['max_tokens']}; allowed: {most}")
        assert "limited to 100 output tokens per minute" in error["message"]
        assert "retry-after" not in refused.headers
        assert left(refused, "output-tokens") == 100
        assert serving.server.backend.requests == []


def test_a_length_has_the_name_it_was_given_by() -> None:
    with limited(output_tokens_per_minute=100) as serving:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": None}
        refused = serving.post(CHAT, **body, max_completion_tokens=101).json()["error"]
        assert refused["param"] == "max_completion_tokens"
        assert refused["message"].startswith("max_completion_tokens is 101; allowed: at most 100,")


def test_prompts_of_more_than_a_minute_in_one_call_leave_a_debt() -> None:
    with limited(input_tokens_per_minute=10) as serving:
        assert serving.post(prompt=["a" * 9] * 3).status_code == 200
        refused = serving.post(prompt="a")
        assert refused.status_code == 429
        serving.clock.advance(int(refused.headers["retry-after"]))
        assert serving.post(prompt="a").status_code == 200


def test_vectors_take_no_output_tokens() -> None:
    with limited(output_tokens_per_minute=1, input_tokens_per_minute=1000) as serving:
        answer = serving.post("/v1/embeddings", input=["a", "b", "c"])
        assert (answer.status_code, left(answer, "output-tokens")) == (200, 1)


def test_without_a_length_a_minute_is_held() -> None:
    with limited(output_tokens_per_minute=100) as serving:
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": None}
        assert serving.post(CHAT, **body).status_code == 200
        assert left(serving.post(max_tokens=1), "output-tokens") == 94
        assert serving.post(CHAT, **body).status_code == 429


def test_a_refused_request_gives_its_tokens_back() -> None:
    async def refuse(_: GenerateRequest) -> None:
        raise CapacityError("full")

    backend = FakeBackend(admission=refuse)
    with limited(backend, output_tokens_per_minute=100, requests_per_minute=10) as serving:
        answer = serving.post(max_tokens=100)
        assert answer.json()["error"]["code"] == "slow_down"
        assert (left(answer, "output-tokens"), left(answer, "requests")) == (100, 9)
        serving.post(temperature=9)
        backend.admission = None
        assert left(serving.post(max_tokens=100), "output-tokens") == 95


def test_one_prompt_too_many_stops_the_others_of_its_call() -> None:
    async def refuse(request: GenerateRequest) -> None:
        if request.prompt == "c":
            raise CapacityError("full")

    with limited(FakeBackend(admission=refuse), output_tokens_per_minute=100) as serving:
        refused = serving.post(prompt=["a", "b", "c"], max_tokens=30)
        assert refused.status_code == 429
        assert serving.server.backend.num_running == 0
        assert left(serving.post(max_tokens=100), "output-tokens") == 95


def test_a_client_that_leaves_pays_for_what_was_made() -> None:
    backend = FakeBackend(before_step=wait_at(3))
    with limited(backend, output_tokens_per_minute=100, max_concurrent_requests=1) as serving:
        path = f"{COMPLETIONS} HTTP/1.1\r\nAuthorization: Bearer {SECRET}\r\nx: "
        with raw_post(serving.server, path, BODY | {"stream": True, "max_tokens": 80}) as raw:
            read_until(raw, b'" w')
            assert serving.post().status_code == 429
        assert backend.wait_until(lambda: backend.num_running == 0)
        backend.before_step = None
        eventually(lambda: serving.post(max_tokens=97).status_code == 200)
        assert left(serving.post(max_tokens=1), "output-tokens") == 100 - 3 - 5 - 1


def test_requests_at_a_time() -> None:
    peak = 0

    async def watch(_: GenerateRequest, step: int) -> None:
        nonlocal peak
        peak = max(peak, backend.num_running)
        await asyncio.sleep(0.05)  # long enough that calls would overlap if they were let

    backend = FakeBackend(before_step=watch)
    with limited(backend, max_concurrent_requests=4) as serving:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: serving.post(), range(48)))
        statuses = {answer.status_code for answer in answers}
        assert statuses == {200, 429}
        assert peak == 4
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert "its limit is 4 at a time" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] == "1"
        assert serving.post().status_code == 200


@pytest.mark.parametrize(
    "body", [{}, {"stream": True}, {"prompt": ["a", "b"], "n": 2}, {"temperature": 9}]
)
def test_one_after_the_other_is_never_two_at_a_time(body: dict[str, Any]) -> None:
    with limited(max_concurrent_requests=1) as serving:
        statuses = {serving.post(**body).status_code for _ in range(40)}
    assert statuses == {400 if "temperature" in body else 200}


def test_many_at_once_do_not_overshoot() -> None:
    with limited(output_tokens_per_minute=200, requests_per_minute=30) as serving:
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda _: serving.post().status_code, range(150)))
        num_answered = statuses.count(200)
        assert set(statuses) == {200, 429}
        assert num_answered <= 30
        assert num_answered == len(serving.server.backend.requests)


def test_a_key_without_limits_has_no_headers() -> None:
    with limited() as serving:
        answer = serving.post()
        assert answer.status_code == 200
        assert [name for name in answer.headers if name.startswith("x-ratelimit")] == []
