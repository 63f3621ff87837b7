"""Event streams as bytes: frames, comment lines, error frames, ids, limits on time."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from fakes.fake_backend import FakeBackend
from fakes.served_app import RunningServer, run_server
from headrace.core.config import ServerConfig
from headrace.core.errors import EngineStalled
from headrace.core.request import GenerateRequest

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def frames(reply: httpx.Response, content: bytes | None = None) -> list[Any]:
    """Decode the frames of a stream, comment lines as None, and check the framing."""
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"
    *blocks, rest = (reply.content if content is None else content).split(b"\n\n")
    assert rest == b""
    decoded = []
    for block in blocks:
        if block.startswith(b": "):
            decoded.append(None)
            continue
        assert block.startswith(b"data: ")
        assert b"\n" not in block
        payload = block.removeprefix(b"data: ")
        decoded.append("[DONE]" if payload == b"[DONE]" else json.loads(payload))
    return decoded


def test_frames_of_a_chat(server: RunningServer) -> None:
    with server.client() as client:
        reply = client.post(CHAT, json=BODY | {"stream": True, "request_id": "abc"})
    *chunks, done = frames(reply)
    assert done == "[DONE]"
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-abc"}
    assert all("usage" not in chunk for chunk in chunks)
    assert chunks[0]["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
    ]
    assert [chunk["choices"][0]["delta"] for chunk in chunks[1:]] == [
        {"content": "Hello"},
        {"content": ","},
        {"content": " wörld"},
        {"content": " 🌊!"},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"][0]["stop_reason"] is None


def test_usage_in_every_chunk_on_demand(server: RunningServer) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True, "include_obfuscation": True}
    with server.client() as client:
        reply = client.post(CHAT, json=BODY | {"stream": True, "stream_options": options})
    *chunks, _ = frames(reply)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == [1, 1, 2, 3, 5, 5]
    assert chunks[-1]["choices"] == []


def test_finish_reason_has_no_text_of_its_own() -> None:
    backend = FakeBackend(pieces=("a", ""), stop_reason="END")
    with run_server(backend) as server, server.client() as client:
        reply = client.post(CHAT, json=BODY | {"stream": True})
        whole = client.post(CHAT, json=BODY).json()["choices"][0]
    *chunks, _ = frames(reply)
    last = chunks[-1]["choices"][0]
    assert last["delta"] == {}
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", "END")
    assert (whole["finish_reason"], whole["stop_reason"]) == ("stop", "END")
    assert whole["message"]["content"] == "a"


def num_comments(content: bytes) -> int:
    return len(re.findall(rb"^: ", content, re.MULTILINE))


def test_comment_lines_while_nothing_comes() -> None:
    """Before the answer and within it, for as long as it takes."""
    gates = {0: asyncio.Event(), 2: asyncio.Event()}

    async def wait(_: object, step: int) -> None:
        if step in gates:
            await gates[step].wait()

    config, content = ServerConfig(heartbeat_s=0.02), b""
    with run_server(FakeBackend(before_step=wait), config) as server, server.client() as client:
        with client.stream("POST", CHAT, json=BODY | {"stream": True}) as reply:
            for part in reply.iter_bytes():
                content += part
                if num_comments(content) >= 2:
                    server.call(gates[0].set)
                if num_comments(content.partition(b'"content":","')[2]):
                    server.call(gates[2].set)
        whole = client.post(CHAT, json=BODY)
    decoded = frames(reply, content)
    assert decoded[:2] == [None, None]
    texts = [f["choices"][0]["delta"].get("content", "") for f in decoded if isinstance(f, dict)]
    assert None in decoded[3:]
    assert "".join(texts) == "Hello, wörld 🌊!" == whole.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_an_error_after_the_first_byte_is_a_frame_and_the_end(path: str) -> None:
    async def stall(_: object, step: int) -> None:
        if step == 1:
            raise EngineStalled("No step has ended for 10 s.")

    body = BODY | {"prompt": "hi", "stream": True}
    with run_server(FakeBackend(before_step=stall)) as server, server.client() as client:
        decoded = frames(client.post(path, json=body))
    assert decoded[-1] == {
        "error": {
            "message": "No step has ended for 10 s.",
            "type": "server_error",
            "param": None,
            "code": None,
        }
    }
    assert "[DONE]" not in decoded


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_a_model_that_gives_up_is_no_answer(reason: Any) -> None:
    backend = FakeBackend(pieces=("half",), finish_reason=reason)
    with run_server(backend) as server, server.client() as client:
        replies = [client.post(CHAT, json=BODY | {"stream": stream}) for stream in (False, True)]
    for reply in replies:
        assert reply.status_code == 500
        message = reply.json()["error"]["message"]
        assert message == (
            "The model stopped before the answer was complete. The log has more under request id "
            f"{reply.headers['x-request-id']}."
        )


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_an_answer_without_an_end_is_an_error(path: str) -> None:
    body = BODY | {"prompt": "hi"}
    with run_server(FakeBackend(finish_reason=None)) as server, server.client() as client:  # type: ignore[arg-type]
        assert client.post(path, json=body).status_code == 500
        decoded = frames(client.post(path, json=body | {"stream": True}))
    assert "without saying why" in decoded[-1]["error"]["message"]


def test_an_answer_that_takes_too_long_is_stopped() -> None:
    async def dawdle(_: object, step: int) -> None:
        await asyncio.sleep(0.1 if step else 0)

    config = ServerConfig(request_timeout_s=1.5)
    backend = FakeBackend(pieces=["z"] * 100, before_step=dawdle)
    with run_server(backend, config) as server, ThreadPoolExecutor() as pool:
        with server.client() as one, server.client() as other:
            asked = pool.submit(one.post, CHAT, json=BODY)
            decoded = frames(other.post(CHAT, json=BODY | {"stream": True}))
            whole = asked.result()
        assert backend.wait_until(lambda: backend.num_running == 0)
    message = (
        "The answer was not complete after 1.5 s, this server's limit (request_timeout_s). "
        "Ask for fewer tokens."
    )
    assert whole.status_code == 400
    assert whole.json()["error"]["message"] == message
    assert decoded[-1]["error"]["message"] == message
    assert len(backend.closed) == 2


def test_token_ids_and_prompt_scores_come_once() -> None:
    ask = {"return_token_ids": True, "prompt_logprobs": 1, "n": 2}
    with run_server() as server, server.client() as client:
        whole = client.post(CHAT, json=BODY | ask).json()
        *chunks, _ = frames(client.post(CHAT, json=BODY | ask | {"stream": True}))
    assert whole["prompt_token_ids"] == [104, 105]
    assert whole["prompt_logprobs"] == [
        None,
        {"105": {"logprob": -0.5, "rank": 1, "decoded_token": "i"}},
    ]
    assert whole["choices"][1]["token_ids"] == [1000, 1001, 1002, 1003, 1004]
    assert [i for i, chunk in enumerate(chunks) if "prompt_token_ids" in chunk] == [0]
    assert chunks[0]["prompt_logprobs"] == whole["prompt_logprobs"]
    for choice in whole["choices"]:
        ids = [
            token_id
            for chunk in chunks
            if chunk["choices"][0]["index"] == choice["index"]
            for token_id in chunk["choices"][0].get("token_ids", [])
        ]
        assert ids == choice["token_ids"]


def test_completions_extras(server: RunningServer) -> None:
    ask = {"model": "tiny", "prompt": ["ab", "c"], "return_token_ids": True, "prompt_logprobs": 0}
    with server.client() as client:
        whole = client.post(TEXT, json=ask).json()
        *chunks, _ = frames(client.post(TEXT, json=ask | {"stream": True}))
        scored = client.post(
            TEXT,
            json={
                "model": "tiny",
                "prompt": "ab",
                "logprobs": 2,
                "max_tokens": 1,
                "return_tokens_as_token_ids": True,
            },
        ).json()
    assert [choice["prompt_token_ids"] for choice in whole["choices"]] == [[97, 98], [99]]
    assert whole["choices"][1]["prompt_logprobs"] == [None]
    assert whole["choices"][0]["token_ids"] == [1000, 1001, 1002, 1003, 1004]
    assert sum("prompt_token_ids" in chunk["choices"][0] for chunk in chunks) == 2
    logprobs = scored["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["token_id:1000"]
    assert logprobs["top_logprobs"] == [{"token_id:1000": -0.5, "token_id:1001": -1.0}]
    assert scored["choices"][0]["finish_reason"] == "length"


def test_every_field_reaches_the_backend(server: RunningServer) -> None:
    fields: dict[str, Any] = {
        "max_tokens": 4,
        "max_completion_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
        "logit_bias": {"5": -100, "6": 1.5},
        "allowed_token_ids": [1, 2],
        "bad_words": ["no"],
        "seed": -5,
        "n": 2,
        "stop": "END",
        "stop_token_ids": [9],
        "min_tokens": 1,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "return_token_ids": True,
        "prompt_logprobs": 2,
    }
    others = {
        "truncate_prompt_tokens": 50,
        "priority": -2,
        "cache_salt": "s",
        "continue_final_message": True,
        "chat_template_kwargs": {"style": {"warm": True}},
        "add_special_tokens": True,
    }
    quiet = {
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "implicit"},
        "prompt_cache_retention": "in_memory",
        "metadata": {"a": "b"},
        "modalities": ["text"],
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "logprobs": True,
        "top_logprobs": None,
        "use_beam_search": False,
        "length_penalty": 1.0,
        "reasoning_effort": "none",
        "verbosity": "medium",
        "service_tier": "auto",
    }
    with server.client() as client:
        reply = client.post(CHAT, json=BODY | fields | others | quiet)
    assert reply.status_code == 200, reply.text
    assert "x-headrace-warnings" not in reply.headers
    assert reply.json()["service_tier"] == "default"
    request: GenerateRequest = server.backend.requests[0]
    sampling = request.sampling
    expected = fields | {
        "max_tokens": 4,
        "logit_bias": {5: -100.0, 6: 1.5},
        "allowed_token_ids": (1, 2),
        "bad_words": ("no",),
        "stop": ("END",),
        "stop_token_ids": (9,),
        "logprobs": 0,
    }
    del expected["max_completion_tokens"]
    assert {name: getattr(sampling, name) for name in expected} == expected
    assert {name: getattr(request, name) for name in others} == others
    assert request.add_generation_prompt is False
    assert request.tenant == "default"


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, BODY), ("/v1/responses", {"model": "tiny", "input": "hi"})]
)
def test_hints_without_effect_are_named(
    server: RunningServer, path: str, body: dict[str, Any]
) -> None:
    hints = {
        "service_tier": "priority",
        "prompt_cache_retention": "24h",
        "session_id": "x",
        "cache": {"no-cache": True},
    }
    with server.client() as client:
        reply = client.post(path, json=body | hints)
    assert reply.headers["x-headrace-warnings"] == ",".join(hints)
    assert reply.json()["service_tier"] == "default"


def test_messages_reach_the_backend(server: RunningServer) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "name": "bo", "content": [{"type": "text", "text": t} for t in "ab"]},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "hm",
            "refusal": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        {"role": "judge", "content": "ok", "colour": "red", "annotations": []},
    ]
    with server.client() as client:
        reply = client.post(CHAT, json={"model": "tiny", "messages": messages})
    assert reply.headers["x-headrace-warnings"] == "messages[4].colour"
    system, user, assistant, tool, judge = server.backend.requests[0].messages or ()
    assert (system.role, system.content) == ("system", "be brief")
    assert (user.name, user.content) == ("bo", "a\nb")
    assert (assistant.content, assistant.reasoning_content) == (None, "hm")
    assert [(c.id, c.name, c.arguments) for c in assistant.tool_calls] == [("c1", "f", "{}")]
    assert (tool.tool_call_id, tool.content) == ("c1", "42")
    assert judge.role == "judge"


def test_template_variables_are_passed_or_named() -> None:
    backend = FakeBackend()
    backend.info = replace(backend.info, template_variables=frozenset({"reasoning_effort", "a"}))
    fields = {"reasoning_effort": "high", "chat_template_kwargs": {"a": 1, "b": 2}}
    with run_server(backend) as server, server.client() as client:
        reply = client.post(CHAT, json=BODY | fields)
    assert reply.status_code == 200
    assert reply.headers["x-headrace-warnings"] == "chat_template_kwargs.b"
    given = backend.requests[0].chat_template_kwargs
    assert given == {"a": 1, "b": 2, "reasoning_effort": "high"}


def test_request_ids(server: RunningServer) -> None:
    with server.client() as client:
        given = client.get("/version", headers={"X-Request-Id": "trace-7"})
        unsafe = client.get("/version", headers={"X-Request-Id": "a b"})
        too_long = client.get("/version", headers={"X-Request-Id": "a" * 129})
        same = [
            client.post(CHAT, json=BODY, headers={"X-Request-Id": "same"}).headers["x-request-id"]
            for _ in range(2)
        ]
    assert given.headers["x-request-id"] == "trace-7"
    assert unsafe.headers["x-request-id"].startswith("req_")
    assert too_long.headers["x-request-id"].startswith("req_")
    assert same == ["same", "same"]
    ids = [request.request_id for request in server.backend.requests]
    assert len(set(ids)) == 2


def test_served_names_default_length_and_operator_routes() -> None:
    config = ServerConfig(served_model_names=("org/coder", "coder"), default_max_tokens=2)
    with run_server(config=config) as server, server.client() as client:
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
        by_slash = client.get("/v1/models/org/coder").json()
        by_escape = client.get("/v1/models/org%2Fcoder").json()
        answer = client.post(CHAT, json=BODY | {"model": "org/coder"}).json()
        own_name = client.post(CHAT, json=BODY)
        version = client.get("/version").json()
        load = client.get("/load").json()
        metrics = client.get("/metrics")
        health = [client.get("/health"), client.get("/ping"), client.post("/ping")]
        head = client.head("/health")
    assert names == ["org/coder", "coder"]
    assert by_slash == by_escape
    assert by_slash["id"] == "org/coder"
    assert answer["model"] == "org/coder"
    assert answer["choices"][0]["message"]["content"] == "Hello,"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert own_name.status_code == 404
    assert own_name.json()["error"]["message"] == (
        "The model 'tiny' does not exist here. Known: org/coder, coder."
    )
    assert version == {"version": "9.9"}
    assert load == {"server_load": 0}
    assert metrics.text == "headrace_up 1\n"
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert [reply.status_code for reply in health] == [200] * 3
    assert (head.status_code, head.content) == (200, b"")
    assert server.backend.requests[0].model == "tiny"
