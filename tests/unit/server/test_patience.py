"""How long clients say they wait."""

from __future__ import annotations

import pytest

from headrace.server.patience import patience_of

READ, WHOLE = "x-stainless-read-timeout", "x-stainless-timeout"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({READ: "600"}, 600.0),
        ({WHOLE: "2.5", READ: "600"}, 2.5),
        ({READ: "None"}, None),
        ({READ: "-1", WHOLE: "nan"}, None),
        ({READ: "inf", WHOLE: "7"}, 7.0),
    ],
)
def test_the_least_that_is_said(headers: dict[str, str], expected: float | None) -> None:
    assert patience_of(headers) == expected
