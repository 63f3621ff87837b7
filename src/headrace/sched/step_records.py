"""From requests to the records of a step that cross the layers.

In: RequestState, what the runner found for it. Out: ScheduledRequest and NewRequest for the
executor, RequestProgress for the output side. Changes nothing of a request but that the executor
knows it now.
"""

from __future__ import annotations

from headrace.core.output import FinishReason
from headrace.core.step import NewRequest, RequestProgress, RowOutput, ScheduledRequest
from headrace.sched.request_state import RequestState

Plan = list[tuple[RequestState, int]]
"""Requests of a step, and how many tokens each one computes."""


def to_scheduled(request: RequestState, num_tokens: int) -> ScheduledRequest:
    """The next tokens of a request, its drafts behind those that are known."""
    start = request.num_computed_tokens
    end = start + num_tokens
    token_ids = tuple(request.token_ids[start:end])
    num_draft_tokens = num_tokens - len(token_ids)
    return ScheduledRequest(
        request.spec.request_id,
        token_ids + request.draft_token_ids[:num_draft_tokens],
        start,
        tuple(request.block_table.block_ids),
        request.num_logit_rows(len(token_ids)) + num_draft_tokens,
        end >= len(request.token_ids),
        num_draft_tokens,
    )


def introduce(plan: Plan) -> tuple[NewRequest, ...]:
    """Describe the requests that the executor has not met. Mutates: those."""
    new_requests = []
    for request, _ in plan:
        if not request.is_known_to_runner:
            request.is_known_to_runner = True
            new_requests.append(request.to_new_request())
    return tuple(new_requests)


def to_progress(
    request: RequestState,
    found: RowOutput,
    num_new_tokens: int,
    finish_reason: FinishReason | None,
    stop_token_id: int | None = None,
) -> RequestProgress:
    """What a step gave a request, of what was found for it."""
    return RequestProgress(
        request.spec.request_id,
        found.token_ids[:num_new_tokens],
        found.logprobs[:num_new_tokens],
        found.prompt_logprobs,
        finish_reason,
        stop_token_id,
        request.num_cached_tokens,
        request.num_preemptions,
        request.queued_at_s,
        request.scheduled_at_s,
        vector=found.vector,
        num_draft_tokens=request.num_draft_tokens,
        num_accepted_tokens=request.num_accepted_tokens,
        prefill_compute_s=request.prefill_compute_s,
        decode_compute_s=request.decode_compute_s,
    )


def to_abort(request: RequestState) -> RequestProgress:
    """The end of a request that nobody wants any more."""
    return to_progress(request, RowOutput(), 0, "abort")


def to_failure(request: RequestState, found: RowOutput) -> RequestProgress:
    """The end of a request that cannot go on."""
    ended = to_progress(request, RowOutput(), 0, "error")
    return ended._replace(error=found.error, is_callers_fault=found.is_callers_fault)
