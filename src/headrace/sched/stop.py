"""Which token ends a request. Stop texts are not seen here; the output side looks for them."""

from __future__ import annotations

from headrace.core.output import FinishReason
from headrace.sched.request_state import RequestState


def find_stop(request: RequestState, max_num_tokens: int) -> tuple[FinishReason | None, int | None]:
    """Judge a request by its newest token: why it ends, and the asked-for stop token that ended it.

    End-of-sequence and stop tokens count from `min_tokens` on. A length limit always counts.
    """
    token_id = request.token_ids[-1]
    if request.num_output_tokens >= request.spec.sampling.min_tokens:
        if token_id in request.eos_token_ids:
            return "stop", None
        if token_id in request.stop_token_ids:
            return "stop", token_id
    is_full = request.num_tokens >= max_num_tokens
    if is_full or request.num_output_tokens >= request.spec.max_tokens:
        return "length", None
    return None, None
