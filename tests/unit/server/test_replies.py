"""Ids and warning headers made from what strangers send."""

from __future__ import annotations

import pytest

from headrace.server.replies import warning_headers
from headrace.server.request_ids import engine_request_id, header_request_id, response_id


def test_no_names_no_header() -> None:
    assert warning_headers([]) == {}


def test_names_cannot_break_a_header() -> None:
    headers = warning_headers(["top_k2", "a\r\nSet-Cookie: x", "naïve", "m[0].x", "y" * 500])
    assert headers == {"x-headrace-warnings": f"top_k2,a??Set-Cookie??x,na?ve,m[0].x,{'y' * 64}"}
    many = warning_headers([f"n{i}" for i in range(1000)])["x-headrace-warnings"]
    assert many.count(",") == 31


@pytest.mark.parametrize("given", ["abc-1", "~" * 128, "0af7651916cd43dd8448eb211c80319c"])
def test_a_clients_id_is_kept(given: str) -> None:
    assert header_request_id(given) == given


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "é", "a\n"])
def test_other_ids_are_replaced(given: str | None) -> None:
    made = header_request_id(given)
    assert made.startswith("req_")
    assert made != header_request_id(given)


def test_ids_inside_the_engine_are_unique() -> None:
    answer_id = response_id("cmpl", "mine")
    assert answer_id == "cmpl-mine"
    assert engine_request_id(answer_id, 2).startswith("cmpl-mine-2-")
    assert engine_request_id(answer_id) != engine_request_id(answer_id)
    assert response_id("chatcmpl", None) != response_id("chatcmpl", None)
