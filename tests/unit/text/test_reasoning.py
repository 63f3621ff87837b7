"""Reasoning parted from answers, recorded and made-up ones, cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.text.answer_parts import AnswerFormat, AnswerParts, Parts, join_parts
from headrace.text.call_syntax import HERMES
from headrace.text.reasoning import (
    ReasoningMarks,
    ReasoningSplitter,
    find_reasoning_marks,
    opens_reasoning,
)

THINK = ReasoningMarks("<think>", "</think>")
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def split(text: list[str], is_open: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(THINK, is_open)
    pieces = [*(splitter.append(piece) for piece in text), splitter.flush()]
    return "".join(r for r, _ in pieces), "".join(a for _, a in pieces)


RECORDED = [
    ("<think>\nTwo and two.\n</think>\n\nFour.", False, ("Two and two.", "Four.")),
    ("Two and two.\n</think>\n\nFour. ", True, ("Two and two.", "Four. ")),
    ("\nTwo </thin> and", True, ("Two </thin> and", "")),
    ("<think>\nTwo\n</think>\nFour.", True, ("Two", "Four.")),
    ("<think>\n\n</think>\n\nFour.", False, ("", "Four.")),
    ("<think>half a tho", False, ("half a tho", "")),
    ("<think>a <think> b</think>c</think>", False, ("a <think> b", "c</think>")),
    ("Four. <think>no</think>", False, ("", "Four. <think>no</think>")),
    (" \n Four.", False, ("", " \n Four.")),
    ("<thi", False, ("", "<thi")),
    ("", False, ("", "")),
    ("", True, ("", "")),
]


@pytest.mark.parametrize(("text", "is_open", "found"), RECORDED)
def test_recorded_answers(text: str, is_open: bool, found: tuple[str, str]) -> None:
    assert split([text], is_open) == found
    assert split(list(text), is_open) == found


ANSWERS = st.lists(
    st.sampled_from(["<think>", "</think>", "\n", " ", "<", "</", "think>", CALL, "a", "ö🌊"]),
    max_size=10,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(ANSWERS, st.booleans(), st.booleans(), st.lists(st.integers(0, 400), max_size=10))
def test_cut_anywhere_it_is_the_same(
    text: str, is_open: bool, has_tools: bool, at: list[int]
) -> None:
    calls = HERMES if has_tools else None
    form = AnswerFormat(
        reasoning=THINK, is_reasoning_open=is_open, calls=calls, tool_names=("add",)
    )

    def parts(pieces: list[str]) -> tuple[str, str, list[str], bool]:
        reader = AnswerParts(form)
        gained = [*(reader.append(piece) for piece in pieces), reader.flush()]
        whole = join_parts(gained)
        return whole.reasoning, whole.text, [c.arguments for c in whole.calls], reader.has_calls

    places = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    whole = parts([text])
    assert parts([text[start:end] for start, end in pairwise(places)]) == whole
    assert parts(list(text)) == whole
    if "</think>" not in text and "<think>" not in text and not is_open and not has_tools:
        assert whole == ("", text, [], False)


def test_calls_come_after_reasoning_and_not_in_it() -> None:
    form = AnswerFormat(reasoning=THINK, calls=HERMES, tool_names=("add",))
    reader = AnswerParts(form)
    text = f"<think>\nMaybe {CALL}?\n</think>\n\nI add.\n{CALL}"
    whole = join_parts([*(reader.append(character) for character in text), reader.flush()])
    assert (whole.reasoning, whole.text) == (f"Maybe {CALL}?", "I add.")
    assert [(call.name, call.arguments) for call in whole.calls] == [("add", '{"a": 1}')]


def test_without_parts_everything_is_text() -> None:
    reader = AnswerParts(AnswerFormat())
    text = f"<think>a</think>{CALL} "
    assert reader.append(text) == Parts(text=text)
    assert reader.flush() == Parts()
    assert not reader.has_calls


def test_what_the_template_and_the_prompt_say() -> None:
    assert find_reasoning_marks("{{ content.split('</think>')[-1] }}") == THINK
    assert find_reasoning_marks("[THINK]{{ x }}[/THINK]") == ReasoningMarks("[THINK]", "[/THINK]")
    assert find_reasoning_marks("{{ messages }}") is None
    assert opens_reasoning("<|im_start|>assistant\n<think>\n", THINK)
    assert not opens_reasoning("<think>\n\n</think>\n\n", THINK)
