"""ReasoningSplitter: parts a model's reasoning from its answer as the text grows.

In: pieces of text, cut anywhere. Out: which of them is reasoning and which is answer, the same
however they were cut; white space around the marks belongs to neither. Reasoning opens at the start
of an answer, or in the prompt where the template opens it there. Knows nothing of tool calls.
"""

from __future__ import annotations

from collections.abc import Callable

from headrace.core.frozen import frozen

_SPACE = " \t\r\n"


@frozen
class ReasoningMarks:
    """What opens and closes reasoning."""

    opening: str
    closing: str


_MARKS = (ReasoningMarks("<think>", "</think>"), ReasoningMarks("[THINK]", "[/THINK]"))


def find_reasoning_marks(template: str) -> ReasoningMarks | None:
    """The marks a chat template knows; None for a model that does not reason."""
    return next((marks for marks in _MARKS if marks.closing in template), None)


def opens_reasoning(prompt_end: str, marks: ReasoningMarks) -> bool:
    """Whether an answer to a prompt that ends so begins inside reasoning."""
    return prompt_end.rstrip(_SPACE).endswith(marks.opening)


class ReasoningSplitter:
    """The reasoning of one answer; `is_open` when the prompt has opened it."""

    def __init__(self, marks: ReasoningMarks, is_open: bool) -> None:
        self._marks = marks
        self._held = ""
        self.is_inside = is_open
        self._state: Callable[[str, bool], tuple[str, str]] = self._at_start

    def append(self, text: str) -> tuple[str, str]:
        """Take the next piece; what it adds to (reasoning, answer). Mutates: the text held back."""
        return self._state(text, False)

    def flush(self) -> tuple[str, str]:
        """End the answer: what was held back."""
        return self._state("", True)

    def _at_start(self, text: str, is_final: bool) -> tuple[str, str]:
        self._held += text
        body = self._held.lstrip(_SPACE)
        opening = self._marks.opening
        if body.startswith(opening):  # also where the prompt has it already
            self.is_inside = True
            self._held = body[len(opening) :]
        elif opening.startswith(body) and not is_final:
            return "", ""
        self._state = self._before_reasoning if self.is_inside else self._in_answer
        return self._state("", is_final)

    def _before_reasoning(self, text: str, is_final: bool) -> tuple[str, str]:
        self._held = (self._held + text).lstrip(_SPACE)
        if not self._held and not is_final:
            return "", ""
        self._state = self._in_reasoning
        return self._state("", is_final)

    def _in_reasoning(self, text: str, is_final: bool) -> tuple[str, str]:
        self._held += text
        reasoning, mark, answer = self._held.partition(self._marks.closing)
        if mark:
            self.is_inside = False
            self._held, self._state = answer, self._before_answer
            return reasoning.rstrip(_SPACE), self._state("", is_final)[1]
        if is_final:
            safe = len(self._held)
        else:
            num_partial = _num_partial(self._held, self._marks.closing)
            safe = len(self._held[: len(self._held) - num_partial].rstrip(_SPACE))
        reasoning, self._held = self._held[:safe], self._held[safe:]
        return reasoning, ""

    def _before_answer(self, text: str, is_final: bool) -> tuple[str, str]:
        self._held = (self._held + text).lstrip(_SPACE)
        if self._held:
            self._state = self._in_answer
        return self._state("", is_final) if self._held else ("", "")

    def _in_answer(self, text: str, is_final: bool) -> tuple[str, str]:
        held, self._held = self._held, ""
        return "", held + text


def _num_partial(text: str, mark: str) -> int:
    """Characters at the end of a text that may be the beginning of a mark."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0
