"""How long a prompt is before anybody has counted it.

In: a request. Out: tokens, by its length. Knows no tokenizer.
"""

from __future__ import annotations

from headrace.core.request import GenerateRequest

# Of prose more, of code and other scripts less; rather too many tokens than too few.
BYTES_PER_TOKEN = 3
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
    return num_bytes // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(messages)
