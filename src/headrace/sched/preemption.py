"""Whom to stop when blocks run out, and what stopping means: forget the blocks, compute again.

Progress: the victim is always the running request of the highest rank (the newest, or the least
urgent), so the lowest rank never loses blocks. It can take every block there is, and a request
that does not fit alone is refused on arrival; so it finishes, and then the next one is lowest.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.cache.kv_cache_manager import KVCacheManager
from headrace.sched.request_state import RequestState, RequestStatus


def choose_victim(running: Sequence[RequestState]) -> RequestState:
    """Pick the request to stop from those running, sorted by rank."""
    return running[-1]


def preempt(request: RequestState, kv_cache: KVCacheManager) -> None:
    """Free the blocks of a request. Its tokens stay and are computed again, without sampling.

    Full blocks stay findable until they are reclaimed, so often little is computed twice.
    Mutates: request, kv_cache.
    """
    kv_cache.free(request.block_table)
    request.num_computed_tokens = 0
    request.draft_token_ids = ()
    request.num_preemptions += 1
    request.status = RequestStatus.WAITING
