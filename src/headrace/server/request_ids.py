"""Names of requests: the one in headers, the one in answers, the one inside the engine."""

from __future__ import annotations

import re
import secrets

_SAFE_HEADER_ID = re.compile(r"[\x21-\x7e]{1,128}")


def header_request_id(given: str | None) -> str:
    """The client's own id if it can be a header value, else a new one."""
    if given is not None and _SAFE_HEADER_ID.fullmatch(given):
        return given
    return f"req_{secrets.token_hex(16)}"


def response_id(prefix: str, given: str | None) -> str:
    """The id in the answer's body; a client may choose its second part."""
    return f"{prefix}-{given or secrets.token_hex(16)}"


def message_id() -> str:
    """The id of an answer to Anthropic's clients."""
    return f"msg_{secrets.token_hex(16)}"


def engine_request_id(answer_id: str, prompt_index: int = 0) -> str:
    """Unique even when two clients choose the same id."""
    return f"{answer_id}-{prompt_index}-{secrets.token_hex(4)}"
