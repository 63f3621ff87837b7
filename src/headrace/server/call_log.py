"""What a line of the log says of a request, and of the call it was: who, which model, how it ended.

In: the scope of a request that was answered; the usage row of a call that has ended. Out: words,
and fields for `extra`. Neither prompt nor answer nor key is in them.
"""

from __future__ import annotations

from starlette.types import Scope

from headrace.economics.usage_row import UsageRow
from headrace.server.call_scope import CALLER, CLIENT_LEFT, IGNORED, REQUEST_ID, TRACE

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


def request_fields(scope: Scope, status: int, row: UsageRow | None) -> dict[str, object]:
    """Of a request, and of the call where it was one. `status` is 0 where there was no answer."""
    fields: dict[str, object] = {
        "request_id": scope[REQUEST_ID],
        "method": scope["method"],
        "path": scope["path"],
        "status": status or None,
        "client_left": bool(scope.get(CLIENT_LEFT)),
    }
    if scope.get(IGNORED):
        fields["ignored_fields"] = scope[IGNORED].split(",")
    if scope[TRACE] is not None:
        fields["trace_id"] = scope[TRACE].trace_id
    caller = scope.get(CALLER)
    if caller is not None and caller.key_id is not None:
        fields |= {"tenant": caller.tenant, "key_id": caller.key_id}
    return fields if row is None else fields | call_fields(row)


def how_it_ended(scope: Scope, status: int, row: UsageRow | None) -> str:
    """The status; where the answer broke off after it, by whom or why; what had no effect."""
    ignored = scope.get(IGNORED)
    note = f" (ignored: {ignored})" if ignored else ""
    if scope.get(CLIENT_LEFT):
        return f"{status or '-'} client left{note}"
    if status == 200 and row is not None and row.error:
        return f"200 broken off: {row.error}{note}"
    return f"{status or '-'}{note}"
