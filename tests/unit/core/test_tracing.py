"""W3C trace context: what is taken of a caller's header, and what those below get."""

from __future__ import annotations

import pytest

from headrace.core.tracing import begin_trace, parse_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


def test_a_callers_span_is_the_parent() -> None:
    caller = parse_traceparent(GIVEN, "vendor=1")
    assert caller is not None
    ours = begin_trace(caller, 0.0)
    assert (ours.trace_id, ours.parent_id, ours.is_sampled) == (TRACE, SPAN, True)
    assert ours.span_id not in (SPAN, "0" * 16)
    assert ours.traceparent == f"00-{TRACE}-{ours.span_id}-01"
    assert ours.child().parent_id == ours.span_id
    assert ours.child().state == "vendor=1"


def test_the_caller_decides_what_is_sampled() -> None:
    caller = parse_traceparent(f"00-{TRACE}-{SPAN}-00")
    assert caller is not None
    assert not begin_trace(caller, 1.0).is_sampled
    assert begin_trace(caller, 1.0).traceparent.endswith("-00")


@pytest.mark.parametrize(
    "text", [f"01-{TRACE}-{SPAN}-03-more", f" {GIVEN} ", f"cc-{TRACE}-{SPAN}-01"]
)
def test_later_versions_are_read(text: str) -> None:
    assert parse_traceparent(text) is not None


@pytest.mark.parametrize(
    "text",
    [
        None, "", "x", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-01-more", GIVEN.upper(),
        f"00-{TRACE[1:]}-{SPAN}-01", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN}-0g",
    ],
)  # fmt: skip
def test_what_is_not_valid_is_not_passed_on(text: str | None) -> None:
    assert parse_traceparent(text) is None


def test_a_share_of_new_traces_is_sampled() -> None:
    assert not any(begin_trace(None, 0.0).is_sampled for _ in range(50))
    assert all(begin_trace(None, 1.0).is_sampled for _ in range(50))
    some = sum(begin_trace(None, 0.5).is_sampled for _ in range(1000))
    assert 350 < some < 650  # 9 standard deviations
