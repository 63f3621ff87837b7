"""What attempts show of backends: who rests, and who is slow."""

from __future__ import annotations

import pytest

from fakes.fake_clock import FakeClock
from headrace.core.errors import CapacityError, HeadraceError, RequestError, UpstreamError
from headrace.router.health import HealthBook


@pytest.mark.parametrize(
    ("error", "rest_s"),
    [
        (CapacityError("full", 7.0), 7.0),
        (CapacityError("full", 700.0), 60.0),
        (CapacityError("you wait too little", 30.0, is_impatience=True), 0.0),
        (UpstreamError("busy", "far", 429, retry_after_s=3.0), 3.0),
        (UpstreamError("broke", "far"), 1.0),
        (RequestError("yours"), 0.0),
    ],
)
def test_how_long_one_rests(error: HeadraceError, rest_s: float) -> None:
    clock = FakeClock()
    book = HealthBook(clock)
    book.fail("near", error)
    assert book.is_resting("near") is bool(rest_s)
    assert not book.is_resting("other")
    clock.advance(rest_s)
    assert not book.is_resting("near")


def test_failures_in_a_row_rest_it_longer_and_an_answer_ends_that() -> None:
    clock = FakeClock()
    book = HealthBook(clock)
    for _ in range(3):
        book.fail("near", UpstreamError("broke", "far"))
    clock.advance(3.9)
    assert book.is_resting("near")
    book.hear("near", 0.5)
    assert not book.is_resting("near")
    assert book.of("near").first_token_s == 0.5


def test_an_answer_that_was_asked_for_before_a_failure_ends_no_rest() -> None:
    """Ten at once: one is told to come back in 30 s, the others begin to answer meanwhile."""
    clock = FakeClock()
    book = HealthBook(clock)
    book.fail("near", UpstreamError("busy", "far", 429, retry_after_s=30.0))
    clock.advance(2.0)
    book.hear("near", 2.5)
    assert book.is_resting("near")
    assert book.of("near").first_token_s == 2.5
    # Whoever was asked in spite of it shows that it is back.
    book.hear("near", 1.5)
    assert not book.is_resting("near")
