"""A stop text that ends an answer inside a tool call, over the engine, in each dialect."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from fakes.running_engine import MODEL, running_engine, script
from fakes.served_app import FixedMetrics
from headrace.core.config import ServerConfig
from headrace.server.app import HeadraceApp
from headrace.server.services import Services

TEMPLATE = (
    "{% if tools %}{{ tools }} Answer with <tool_call>{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
)
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
MESSAGES = [{"role": "user", "content": "hi"}]
FUNCTION = {"name": "add", "parameters": {"type": "object"}}
CHAT = {"messages": MESSAGES, "tools": [{"type": "function", "function": FUNCTION}]}
ANTHROPIC = {
    "messages": MESSAGES,
    "tools": [{"name": "add", "input_schema": {"type": "object"}}],
    "max_tokens": 200,
}


async def post(said: str, path: str, **body: Any) -> dict[str, Any]:
    async with running_engine(script(said), template=TEMPLATE) as running:
        app = HeadraceApp(Services(running.backend, ServerConfig(), FixedMetrics(), "9.9"))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            answer = await client.post(path, json={"model": MODEL} | body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("before", ["", "I will add.\n"])
async def test_no_mark_of_a_call_is_left_in_the_text(before: str) -> None:
    message = await post(before + CALL, "/v1/messages", **ANTHROPIC, stop_sequences=["{"])
    texts = [block["text"] for block in message["content"]]
    assert texts == ([before.rstrip()] if before else [])
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "{")
    answer = await post(before + CALL, "/v1/chat/completions", **CHAT, stop='{"name', max_tokens=99)
    (choice,) = answer["choices"]
    assert (choice["message"]["content"] or "") == before.rstrip()
    assert "tool_calls" not in choice["message"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", '{"name')


async def test_a_call_whose_name_was_read_stays_a_call() -> None:
    message = await post(CALL, "/v1/messages", **ANTHROPIC, stop_sequences=["1"])
    (block,) = message["content"]
    assert (block["type"], block["name"]) == ("tool_use", "add")
    assert message["stop_reason"] == "stop_sequence"


async def test_what_the_length_leaves_of_a_call_is_no_content() -> None:
    answer = await post(f"I will. {CALL}", "/v1/chat/completions", **CHAT, max_tokens=23)
    (choice,) = answer["choices"]
    assert choice["message"]["content"].rstrip() == "I will."
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 23
