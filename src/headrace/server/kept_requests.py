"""What of a call is kept to run it again, where the operator wants that.

In: the notes of a call that has ended, however it ended. Out: a StoredRequest, on its way to the
database; encoding and writing happen elsewhere.
"""

from __future__ import annotations

import msgspec

from headrace.core.stored_requests import StoredAnswer, StoredRequest
from headrace.server.services import Call, Services


def keep_request(services: Services, call: Call) -> None:
    """Pass a call on to be stored; one that no output ever came of is not."""
    log, notes = services.accounts.requests, call.notes
    if log is None or not any(noted.usage for noted in notes.requests):
        return
    length = call.headers.get("content-length", "")
    model = notes.requests[0].request.model
    log.append(
        StoredRequest(
            request_id=call.request_id,
            tenant=call.caller.tenant,
            created_at_s=services.clock.unix_s(),
            operation=notes.operation,
            model=model,
            body=notes.body,
            answers=tuple(
                tuple(map(StoredAnswer, map(tuple, noted.token_ids), noted.finish_reasons))
                for noted in notes.requests
            ),
            receipt=msgspec.to_builtins(notes.receipt(services.build_of(model))),
            # A body without a stated length may be as long as any.
            size_bytes=int(length) if length.isdecimal() else services.config.max_body_bytes,
        )
    )
