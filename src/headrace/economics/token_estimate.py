"""How long a prompt is before anybody has counted it, and an answer that was cut off.

In: a request, lengths. Out: tokens. Knows no tokenizer.
"""

from __future__ import annotations

import json

from headrace.core.message import Tool
from headrace.core.request import GenerateRequest

# Of prose more, of code and other scripts less; rather too many tokens than too few.
BYTES_PER_TOKEN = 3
# Of what models write, few tokens have more: where each delta is one, there are more of them.
BYTES_PER_OUTPUT_TOKEN = 5
TOKENS_PER_MESSAGE = 4


def estimate_input_tokens(request: GenerateRequest) -> int:
    """Tokens of a prompt by its length; exact where it is given as tokens."""
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    if request.prompt is not None:
        text = request.prompt + (request.second_text or "") + (request.suffix or "")
        return len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN + 1
    messages = request.messages or ()
    num_bytes = sum(len((message.content or "").encode("utf-8", "replace")) for message in messages)
    for message in messages:
        num_bytes += sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    num_bytes += sum(map(_num_chars, request.tools))
    num_parts = len(messages) + len(request.tools)
    return num_bytes // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * num_parts


def estimate_output_tokens(num_deltas: int, num_bytes: int) -> int:
    """Tokens of an answer that was cut off before anybody counted it.

    A delta is a token or more: some servers send several at once.
    """
    return max(num_deltas, num_bytes // BYTES_PER_OUTPUT_TOKEN)


def _num_chars(tool: Tool) -> int:
    """Of a tool as templates write it."""
    schema = "" if tool.parameters is None else json.dumps(tool.parameters, default=str)
    return len(tool.name) + len(tool.description or "") + len(schema)
