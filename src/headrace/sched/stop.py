"""Which token ends a request. Stop texts are not seen here; the output side looks for them."""

from __future__ import annotations

from headrace.core.output import FinishReason
from headrace.sched.request_state import RequestState


def find_stop(request: RequestState) -> tuple[FinishReason | None, int | None]:
    """Judge a request by its newest token: why it ends, and the asked-for stop token that ended it.

    End-of-sequence and stop tokens count from `min_tokens` on. A length limit always counts.
    """
    token_id = request.token_ids[-1]
    num_tokens = len(request.token_ids)
    if token_id in request.ending_token_ids and num_tokens >= request.min_num_tokens:
        return "stop", None if token_id in request.spec.eos_token_ids else token_id
    return ("length" if num_tokens >= request.max_num_tokens else None), None
