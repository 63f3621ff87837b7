"""Which tokens a draft model's cache holds, as requests come, grow, stop and come again."""

from __future__ import annotations

from headrace.core.step import ScheduledRequest
from headrace.executor.draft_slots import DraftSlots

SIZE = 4


def row(name: str, start: int, num_tokens: int, *block_ids: int) -> ScheduledRequest:
    return ScheduledRequest(name, [1] * num_tokens, start, block_ids, 1, True)


def test_a_new_request_has_nothing() -> None:
    slots = DraftSlots(8, SIZE)
    assert slots.follow(row("a", 0, 9, 3, 4, 5))
    assert slots.num_computed("a") == 0
    assert slots.num_slots("a") == 12


def test_a_prefix_is_found_as_far_as_it_was_filled() -> None:
    slots = DraftSlots(8, SIZE)
    slots.follow(row("a", 0, 12, 3, 4, 5))
    slots.fill("a", 9)
    slots.forget("a")
    slots.follow(row("b", 12, 1, 3, 4, 5, 6))
    assert slots.num_computed("b") == 8


def test_what_another_request_gets_is_not_filled_any_more() -> None:
    slots = DraftSlots(8, SIZE)
    slots.follow(row("a", 0, 8, 3, 4))
    slots.fill("a", 8)
    slots.forget("a")
    slots.follow(row("b", 0, 5, 4, 5))
    slots.forget("b")
    slots.follow(row("c", 8, 1, 3, 4, 6))
    assert slots.num_computed("c") == 4


def test_a_request_goes_on_where_it_is_expected() -> None:
    slots = DraftSlots(8, SIZE)
    slots.follow(row("a", 0, 6, 0, 1))
    slots.settle("a", 0)
    slots.fill("a", 6)
    drafted = ScheduledRequest("a", [1, 2, 3], 6, (0, 1, 2), 3, True, num_draft_tokens=2)
    assert not slots.follow(drafted)
    slots.settle("a", 1)
    assert not slots.follow(row("a", 8, 1, 0, 1, 2))
    assert slots.num_computed("a") == 6


def test_a_request_that_was_stopped_begins_with_what_is_found_of_it() -> None:
    slots = DraftSlots(8, SIZE)
    slots.follow(row("a", 0, 6, 0, 1))
    slots.settle("a", 0)
    slots.fill("a", 6)
    assert slots.follow(row("a", 4, 3, 0, 5))
    assert slots.num_computed("a") == 4
    slots.forget("a")
    assert len(slots) == 0


def test_a_request_that_comes_again_where_it_was_has_other_blocks() -> None:
    slots = DraftSlots(8, SIZE)
    slots.follow(row("a", 0, 8, 0, 1))
    slots.settle("a", 0)
    slots.fill("a", 8)
    # Stopped, its prefix forgotten, and computed again for another request meanwhile.
    slots.follow(row("b", 0, 8, 5, 6))
    assert slots.follow(row("a", 8, 1, 5, 6, 7))
    assert slots.num_computed("a") == 0
