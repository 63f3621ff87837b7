"""Random bodies: whatever comes, the answer is a 200 or an error of the caller, well formed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.served_app import run_server
from headrace.server.openai_chat_schema import CHAT_REFUSED, ChatCompletionFields
from headrace.server.openai_completions_schema import COMPLETIONS_REFUSED, CompletionFields

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
JSON = {"content-type": "application/json"}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 200)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["tiny", "user", "text", "none", "auto", "required", "fast", "²"])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "5", "²", "include_usage"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
contents = st.text(max_size=10) | st.none() | st.lists(values, max_size=3)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": contents},
        optional={"tool_calls": values, "name": values, "reasoning": values, "x": values},
    ),
    max_size=3,
)


def bodies(names: set[str], required: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(sorted(names)) | st.text(max_size=5)
    extras = st.dictionaries(keys, values, max_size=4)
    return st.tuples(extras, st.fixed_dictionaries(required)).map(lambda pair: pair[0] | pair[1])


chat_names = {*ChatCompletionFields.model_fields, *CHAT_REFUSED} - {"model", "messages"}
text_names = {*CompletionFields.model_fields, *COMPLETIONS_REFUSED} - {"model", "prompt"}
calls = st.one_of(
    st.tuples(st.just(CHAT), bodies(chat_names, {"model": st.just("tiny"), "messages": messages})),
    st.tuples(
        st.just(TEXT),
        bodies(text_names, {"model": st.just("tiny"), "prompt": st.text(max_size=5) | values}),
    ),
    st.tuples(st.sampled_from([CHAT, TEXT]), values),
)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with run_server() as server, server.client() as client:
        yield client


def check(reply: httpx.Response) -> None:
    assert reply.status_code in (200, 400, 404), reply.text
    assert reply.headers["x-request-id"]
    if reply.status_code != 200:
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
        assert error["message"]
    elif reply.headers["content-type"] == "application/json":
        assert reply.json()["choices"]
    else:
        assert reply.text.endswith("data: [DONE]\n\n")


@settings(max_examples=400, deadline=None)
@given(call=calls)
def test_no_json_is_a_server_error(client: httpx.Client, call: tuple[str, Any]) -> None:
    path, body = call
    check(client.post(path, content=json.dumps(body), headers=JSON))


broken = st.text(alphabet='{}[]",:0123456789eE.-\\ utnfr').map(str.encode)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60) | broken)
def test_no_bytes_are_a_server_error(client: httpx.Client, content: bytes) -> None:
    reply = client.post(CHAT, content=content, headers=JSON)
    assert reply.status_code == 400
    check(reply)


@settings(max_examples=60, deadline=None)
@given(path=st.text(max_size=12), method=st.sampled_from(["GET", "POST", "HEAD", "DELETE"]))
def test_no_path_is_a_server_error(client: httpx.Client, path: str, method: str) -> None:
    address = str(client.base_url) + "/v1/" + "".join(f"%{byte:02x}" for byte in path.encode())
    assert client.request(method, address).status_code in (200, 400, 404, 405, 415)
