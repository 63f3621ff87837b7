"""Headers that say which tier served: whatever a model or a caller named, they can be sent."""

from __future__ import annotations

from headrace.core.routing import Route
from headrace.server.route_headers import route_headers
from headrace.server.task_of import task_of


def test_a_header_holds_plain_text_whatever_a_reason_says() -> None:
    found = route_headers(Route(tier="größe", reason="名前\r\nx-evil: 1"))
    assert found["x-headrace-selected-reason"] == "????x-evil: 1"
    assert found["x-headrace-selected-tier"] == "gr??e"


def test_a_task_that_cannot_be_shown_is_none() -> None:
    assert task_of({}, {"metadata": {"task": "seo"}}) == "seo"
    assert task_of({}, {"metadata": {"task": "a\0b"}}) is None
    assert task_of({}, {"metadata": {"task": 3}}) is None
