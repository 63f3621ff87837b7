"""What the scheduler shows of itself between two steps.

In: its running and waiting requests, and why it admitted no more. Out: AnswerActivity records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set

from headrace.core.activity import AnswerActivity, WaitReason
from headrace.sched.request_state import RequestState


def describe_requests(
    running: Iterable[RequestState],
    waiting: Iterable[RequestState],
    stop: WaitReason,
    held_ids: Set[str],
    kept: WaitReason | None = None,
) -> tuple[AnswerActivity, ...]:
    """Those that run, then the queue in its order.

    `stop` is what kept the queue's first request waiting, leaving out `held_ids`, whose prefix is
    being computed. `kept` is why those stand still that have their blocks, where they do.
    """
    rows = [_describe(request, kept, None, 0) for request in running]
    ahead: Counter[str] = Counter()
    first_reason: WaitReason = stop
    for position, request in enumerate(waiting, start=1):
        reason: WaitReason = "prefix"
        if request.request_id not in held_ids:
            reason, first_reason = first_reason, "turn"
        num_others_ahead = position - 1 - ahead[request.spec.tenant]
        rows.append(_describe(request, reason, position, num_others_ahead))
        ahead[request.spec.tenant] += 1
    return tuple(rows)


def _describe(
    request: RequestState, reason: WaitReason | None, position: int | None, num_others_ahead: int
) -> AnswerActivity:
    return AnswerActivity(
        request_id=request.request_id,
        waits_for=reason,
        queue_position=position,
        num_others_ahead=num_others_ahead,
        num_computed_tokens=request.num_computed_tokens,
        num_cached_tokens=request.num_cached_tokens,
        num_output_tokens=request.num_tokens - request.num_prompt_tokens,
        num_blocks=len(request.block_table.block_ids),
        num_preemptions=request.num_preemptions,
    )
