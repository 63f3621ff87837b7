"""What a caller says that a call is about: routing goes by it.

In: headers and a decoded body of any dialect. Out: the name of a task. Whether there is such a task
is the router's concern.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.errors import InvalidParameter

HEADER = "x-headrace-task"
MAX_TASK_LENGTH = 64


def task_of(headers: Mapping[str, str], body: Mapping[str, Any]) -> str | None:
    """The header's task, else that of `metadata`. Raises: InvalidParameter."""
    given = headers.get(HEADER)
    if given is not None:
        text = given.strip()
        if not text or len(text) > MAX_TASK_LENGTH or not text.isprintable():
            raise InvalidParameter(HEADER, given, f"1 to {MAX_TASK_LENGTH} printable characters")
        return text
    metadata = body.get("metadata")
    task = metadata.get("task") if isinstance(metadata, Mapping) else None
    # Of another type it is the dialect's to refuse.
    is_name = isinstance(task, str) and 0 < len(task) <= MAX_TASK_LENGTH and task.isprintable()
    return task if is_name else None
