"""Prompts by their length, where nobody has counted them: rather too many tokens than too few."""

from __future__ import annotations

import json

from headrace.core.message import Message, Tool, ToolCall
from headrace.core.request import GenerateRequest
from headrace.economics.token_estimate import BYTES_PER_TOKEN, estimate_input_tokens

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "x" * 300}}}


def estimate(*messages: Message, tools: tuple[Tool, ...] = ()) -> int:
    asked = GenerateRequest(request_id="r", model="m", messages=messages, tools=tools)
    return estimate_input_tokens(asked)


def test_tools_and_their_calls_are_part_of_the_prompt() -> None:
    asked = Message("user", "What is the weather?")
    alone = estimate(asked)
    tool = Tool("weather", "Says what the weather is.", SCHEMA)
    assert estimate(asked, tools=(tool,)) >= alone + len(json.dumps(SCHEMA)) // BYTES_PER_TOKEN
    arguments = json.dumps({"city": "y" * 300})
    called = Message("assistant", None, tool_calls=(ToolCall("1", "weather", arguments),))
    assert estimate(asked, called) >= alone + len(arguments) // BYTES_PER_TOKEN
