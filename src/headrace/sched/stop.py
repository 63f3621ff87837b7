"""Which token ends a request. Stop texts are not seen here; the output side looks for them."""

from __future__ import annotations

from headrace.core.output import FinishReason
from headrace.core.request import RepetitionDetection
from headrace.sched.request_state import RequestState


def find_stop(request: RequestState) -> tuple[FinishReason | None, int | None]:
    """Judge a request by its newest token: why it ends, and the asked-for stop token that ended it.

    End-of-sequence, stop tokens and repetition count from `min_tokens` on. A length limit always
    counts.
    """
    token_id = request.token_ids[-1]
    num_tokens = len(request.token_ids)
    is_long_enough = num_tokens >= request.min_num_tokens
    if token_id in request.ending_token_ids and is_long_enough:
        return "stop", None if token_id in request.spec.eos_token_ids else token_id
    if num_tokens >= request.max_num_tokens:
        return "length", None
    wanted = request.spec.sampling.repetition_detection
    if wanted is not None and is_long_enough:
        num_output_tokens = num_tokens - request.num_prompt_tokens
        if ends_in_circles(request.token_ids, num_output_tokens, wanted):
            return "repetition", None
    return None, None


def ends_in_circles(
    token_ids: list[int], num_output_tokens: int, wanted: RepetitionDetection
) -> bool:
    """Whether the end of the output is a pattern, repeated as often as wanted.

    With a pattern of p tokens, p * min_count of them are equal to those p places before:

        output  ... a b c | a b c | a b c        p = 3, min_count = 3
                    |-------------|              is what stands one pattern further right

    Source: vLLM, v1/core/sched/utils.check_sequence_repetition.
    """
    newest = token_ids[-1]
    for size in range(max(1, wanted.min_pattern_size), wanted.max_pattern_size + 1):
        num_tokens = size * wanted.min_count
        if num_tokens > num_output_tokens:
            return False
        # Most patterns fail on their last token, which costs no copy.
        if token_ids[-1 - size] == newest and (
            token_ids[-num_tokens:-size] == token_ids[size - num_tokens :]
        ):
            return True
    return False
