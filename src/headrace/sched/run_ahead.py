"""What is taken for granted of a step, while the next one is planned, and taken back.

In: requests, the step. Granted is that every request in it goes on: what it computes counts as
computed, and the token it chooses is UNKNOWN_TOKEN. A part of the scheduler, and as such a writer
of RequestState. Knows nothing of budgets and queues.
"""

from __future__ import annotations

from headrace.core.step import UNKNOWN_TOKEN, SchedulerOutput
from headrace.sched.request_places import RequestPlaces


def expect(places: RequestPlaces, output: SchedulerOutput) -> None:
    """Go on as if the step were over. A request that its length ends has nothing more to compute.

    Mutates: requests.
    """
    for row in output.scheduled:
        request = places.find(row.request_id)
        if request is not None:
            request.num_computed_tokens += len(row.token_ids)
            if row.is_sampled and request.num_tokens + 1 < request.max_num_tokens:
                request.token_ids.append(UNKNOWN_TOKEN)


def take_back(places: RequestPlaces, output: SchedulerOutput) -> None:
    """Undo `expect`. Mutates: requests."""
    for row in output.scheduled:
        request = places.find(row.request_id)
        if request is not None:
            request.num_computed_tokens -= len(row.token_ids)
            if request.token_ids[-1] == UNKNOWN_TOKEN:
                request.token_ids.pop()


def can_grow(places: RequestPlaces, num_free_blocks: int, block_size: int) -> bool:
    """Whether each running request has a slot for its next token, and nobody has to be stopped."""
    if num_free_blocks >= len(places.running):
        return True
    is_full = (
        len(request.block_table.block_ids) * block_size < request.num_tokens
        for request in places.running
    )
    return sum(is_full) <= num_free_blocks
