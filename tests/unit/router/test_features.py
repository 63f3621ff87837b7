"""What is said of a request costs no more than its length: callers choose the text."""

from __future__ import annotations

import time

import pytest

from headrace.core.request import GenerateRequest
from headrace.router.features import MAX_TEXT, read_facts

# What a search that goes back from every place looks at again and again.
LONG = {
    "calls that never end": "a(" * (MAX_TEXT // 2),
    "a call and brackets": "a(" + ")" * MAX_TEXT,
    "brackets and spaces": "a()" + " " * MAX_TEXT,
    "calls and spaces": "a() " * (MAX_TEXT // 4),
    "spaces": " " * MAX_TEXT,
    "empty lines": "\n" * MAX_TEXT,
    "indented lines": " \n" * (MAX_TEXT // 2),
    "braces and spaces": "{ " * (MAX_TEXT // 2),
    "words": "return " * (MAX_TEXT // 7),
    "letters": "x" * MAX_TEXT,
}


def processor_s(text: str) -> float:
    request = GenerateRequest(request_id="r", model="m", prompt=text)
    begin_s = time.process_time()
    read_facts(request)
    return time.process_time() - begin_s


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_any_text_is_read_in_linear_time(text: str) -> None:
    """10 ms and less; from every place to every other one it is seconds."""
    assert min(processor_s(text) for _ in range(3)) < 1.0


@pytest.mark.parametrize(
    ("text", "has_code"),
    [
        ("Why does this fail?\n    def f(x):\n        pass", True),
        ("f(1);", True),
        ("What is 2 + 2?", False),
        ("I return the book (today).", False),
        (f"f({'x' * 199});", True),
        ("return " * 1000 + "x", False),
    ],
)
def test_code_is_found(text: str, has_code: bool) -> None:
    facts = read_facts(GenerateRequest(request_id="r", model="m", prompt=text))
    assert facts.has_code is has_code
