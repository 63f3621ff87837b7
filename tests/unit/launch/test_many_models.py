"""How models share one memory."""

from __future__ import annotations

import pytest

from headrace.executor.memory import Capacity
from headrace.launch.many_models import MIN_KV_SHARE, share_memory

FIXED, KV = 100, 400


def plan(scale: int = 1) -> Capacity:
    return Capacity(
        weights_bytes=(FIXED - 20) * scale,
        kv_bytes=KV * scale,
        scratch_bytes=10 * scale,
        program_bytes=10 * scale,
        num_blocks=10,
        block_size=32,
        max_model_len=256,
    )


def test_with_room_for_all_each_has_what_it_would_alone() -> None:
    assert share_memory([plan(), plan(2)], 1500) == [500, 1000]
    assert share_memory([plan(), plan(2)], 9999) == [500, 1000]


@pytest.mark.parametrize("budget", [1499, 1200, 700])
def test_caches_share_what_weights_leave(budget: int) -> None:
    small, large = share_memory([plan(), plan(2)], budget)
    assert budget - 2 <= small + large <= budget
    assert large - 2 * FIXED == pytest.approx(2 * (small - FIXED), abs=2)


def test_models_with_too_little_take_turns() -> None:
    least = 3 * FIXED + int(MIN_KV_SHARE * 3 * KV)
    assert sum(share_memory([plan(), plan(2)], least)) <= least
    assert share_memory([plan(), plan(2)], least - 1) == [500, least - 1]
