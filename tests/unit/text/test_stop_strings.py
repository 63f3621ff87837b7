"""Stop strings across pieces."""

from __future__ import annotations

import pytest

from headrace.text.stop_strings import StopResult, StopStringBuffer


@pytest.mark.parametrize(
    ("stop", "include", "pieces", "sent", "hit"),
    [
        (["\n\n"], False, ["a\n", "\nb"], ["a", ""], "\n\n"),
        (["\n\n"], True, ["a\n", "\nb"], ["a", "\n\n"], "\n\n"),
        (["END"], False, ["E", "N", "x", "EN", "DING"], ["", "", "ENx", "", ""], "END"),
        (["aab"], False, ["a", "a", "a", "b"], ["", "", "a", ""], "aab"),
        (["xy", "y"], False, ["ax", "y"], ["a", ""], "xy"),  # both complete; the longer began first
        (["y", "xyz"], False, ["xyz"], ["x"], "y"),  # the first to be complete
        ([], False, ["a", "b"], ["a", "b"], None),
        (["😀"], False, ["a😀b"], ["a"], "😀"),
    ],
)
def test_pieces(
    stop: list[str], include: bool, pieces: list[str], sent: list[str], hit: str | None
) -> None:
    buffer = StopStringBuffer(stop, include)
    assert [buffer.append(piece).text for piece in pieces] == sent
    assert buffer.stop == hit


def test_nothing_follows_a_stop() -> None:
    buffer = StopStringBuffer(["x"])
    assert buffer.append("axb") == StopResult("a", "x")
    assert buffer.append("more") == StopResult("", "x")
    assert buffer.flush() == ""


def test_held_text_is_sent_at_the_end() -> None:
    buffer = StopStringBuffer(["abcd"])
    assert buffer.append("xabc").text == "x"
    assert buffer.flush() == "abc"
    assert buffer.stop is None


def test_ignored_stops_are_text() -> None:
    """As while min_tokens is not reached; one that begins there and completes after counts."""
    buffer = StopStringBuffer(["ab"])
    assert buffer.append("xaby", ignore=True) == StopResult("xaby")
    assert buffer.append("za", ignore=True) == StopResult("z")
    assert buffer.append("b") == StopResult("", "ab")
