"""Names under which the envelope keeps what it knows of a request in the ASGI scope."""

from __future__ import annotations

# By lower-case names; see request_headers.
HEADERS = "headrace.headers"
REQUEST_ID = "headrace.request_id"
# Who the gate let in; absent where it did not.
CALLER = "headrace.caller"
# The account of a call to a model.
METER = "headrace.meter"
# The CallNotes of such a call.
NOTES = "headrace.notes"
# A TraceContext, or None where nothing is traced.
TRACE = "headrace.trace"
# True when the client went before its answer was complete.
CLIENT_LEFT = "headrace.client_left"
# The room of the body, until the answer is complete.
ROOM = "headrace.room"
# What of the head has no effect: names of the query, and of headers.
UNREAD = "headrace.unread"
# Fields that had no effect, as the head of the answer names them.
IGNORED = "headrace.ignored"
