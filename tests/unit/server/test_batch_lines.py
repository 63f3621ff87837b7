"""Input files of batches: what is taken, and what is wrong with each line that is not."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from fakes.stored import CHAT, chat_line, jsonl
from headrace.server.batch_lines import (
    MAX_ERRORS,
    MAX_LINES,
    InputFacts,
    LineLimits,
    check_input,
    count_answers,
    parse_line,
    read_lines,
    weigh,
)
from headrace.server.json_body import JsonLimits

LIMITS = LineLimits(max_bytes=1000, json=JsonLimits(max_depth=8, max_objects=100))


def check(*lines: Any) -> InputFacts:
    return check_input(io.BytesIO(jsonl(lines)), CHAT, LIMITS)


def changed(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (chat_line("a") | changes).items() if value != "gone"}


def test_a_right_file() -> None:
    assert check(chat_line("a"), chat_line("b")) == InputFacts(2, "tiny")
    assert check(chat_line("a"), chat_line("b", model="other")) == InputFacts(2, None)
    assert check(chat_line("a", model=3)) == InputFacts(1, None)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \n"])
def test_line_ends_empty_lines_and_a_mark_at_the_beginning(end: bytes) -> None:
    first, second = (json.dumps(chat_line(name)).encode() for name in "ab")
    data = b"\xef\xbb\xbf" + first + b"\r\n\n" + second + end
    lines = list(read_lines(io.BytesIO(data), 1000))
    assert [number for number, _ in lines] == [1, 3]
    parsed = [parse_line(number, line, CHAT, LIMITS) for number, line in lines]
    assert [line.custom_id for line in parsed] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "code", "param", "message"),
    [
        (b"{", "invalid_json_line", None, "This line is not valid JSON"),
        (b"\xff", "invalid_json_line", None, "This line is not valid JSON"),
        (b'{"body": {"a": 1, "a": 2}}', "invalid_json_line", None, "This line has body.a twice"),
        (b"[]", "invalid_json_line", None, "This line is an array; allowed: a JSON object."),
        (changed(body={"a": [[[[[[[[[]]]]]]]]]}), "invalid_json_line", None, "more than 8 deep"),
        (changed(custom_id="gone"), "missing_required_parameter", "custom_id", "is missing"),
        (changed(custom_id=None), "missing_required_parameter", "custom_id", "is missing"),
        (changed(custom_id=3), "invalid_value", "custom_id", "wrong type"),
        (changed(custom_id=""), "invalid_value", "custom_id", "0 characters; allowed: 1 to 512."),
        (changed(custom_id="x" * 513), "invalid_value", "custom_id", "513 characters"),
        (changed(method="gone"), "missing_required_parameter", "method", "give POST"),
        (changed(method="GET"), "invalid_value", "method", "method is 'GET'; allowed: POST."),
        (changed(url="/v1/x"), "url_mismatch", "url", f"allowed: {CHAT}"),
        (changed(body="gone"), "missing_required_parameter", "body", "give an object"),
        (changed(body=[]), "invalid_value", "body", "wrong type"),
        (
            chat_line("a", "x" * 1000),
            "line_too_long",
            None,
            "more than 1000 B, this server's limit on bodies (max_body_bytes). Make several",
        ),
        (chat_line("first"), "duplicate_custom_id", "custom_id", "'first' stands in an earlier"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_wrong_line_is_named(line: Any, code: str, param: str | None, message: str) -> None:
    facts = check(chat_line("first"), line, chat_line("last"))
    assert [(error.code, error.line, error.param) for error in facts.errors] == [(code, 2, param)]
    assert message in facts.errors[0].message


def test_a_long_line_is_never_in_memory_whole() -> None:
    class Counting(io.BytesIO):
        largest = 0

        def readline(self, size: int | None = -1) -> bytes:
            data = super().readline(size)
            self.largest = max(self.largest, len(data))
            return data

    file = Counting(b"x" * 500_000 + b"\n" + json.dumps(chat_line("a")).encode())
    facts = check_input(file, CHAT, LIMITS)
    assert [(error.code, error.line) for error in facts.errors] == [("line_too_long", 1)]
    assert (facts.num_lines, file.largest) == (2, 1002)


def test_empty_files_and_files_with_too_much() -> None:
    assert [error.code for error in check().errors] == ["empty_file"]
    assert [error.code for error in check(b"", b"  ").errors] == ["empty_file"]
    errors = check(*[b"{"] * (MAX_ERRORS + 5)).errors
    assert len(errors) == MAX_ERRORS
    data = b"".join(
        b'{"custom_id":"%d","method":"POST","url":"%s","body":{}}\n' % (i, CHAT.encode())
        for i in range(MAX_LINES + 1)
    )
    (error,) = check_input(io.BytesIO(data), CHAT, LIMITS).errors
    assert (error.code, error.line) == ("too_many_tasks", None)
    whole = data[: data.rindex(b"{")]
    whole = whole[: whole.rindex(b'{"custom_id"')]
    assert check_input(io.BytesIO(whole), CHAT, LIMITS) == InputFacts(MAX_LINES, None)


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"n": "3"}, 1),
        ({"n": True}, 1),
        ({"n": -2}, 1),
        ({"prompt": "text"}, 1),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]], "n": 2}, 4),
        ({"prompt": []}, 1),
    ],
)
def test_how_many_answers_a_line_asks_for(body: dict[str, Any], count: int) -> None:
    assert count_answers(body) == count
    assert weigh(body) == count
    assert weigh(body | {"input": ["text"] * 300}) == 300
    assert weigh(body | {"input": "text"}) == count
