"""What a line of the log says of a call: who, which model, how it ended, tokens and times.

In: the usage row of a call that has ended. Out: fields for `extra`. Neither prompt nor answer nor
key is in them.
"""

from __future__ import annotations

from headrace.economics.usage_row import UsageRow

_FIELDS = (
    "request_id",
    "operation",
    "tenant",
    "key_id",
    "model",
    "finish_reason",
    "error",
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
)
_TIMES = ("queue_s", "prefill_s", "decode_s", "first_token_s", "duration_s")


def call_fields(row: UsageRow) -> dict[str, object]:
    """The fields that are known. A call that ran no model has used nothing."""
    names = _FIELDS if row.usage_source != "none" else _FIELDS[:7]
    fields = {name: getattr(row, name) for name in names}
    times = {name: getattr(row, name) for name in _TIMES}
    fields |= {name: round(value, 4) for name, value in times.items() if value is not None}
    return {name: value for name, value in fields.items() if value is not None}
