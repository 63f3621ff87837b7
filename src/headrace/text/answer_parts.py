"""AnswerParts: an answer's text parted into reasoning, text and tool calls while it is made.

In: pieces of text. Out: what each adds to the parts. AnswerFormat says which parts to look for; the
input side makes it from the model's template and the request, the output side follows it.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace.core.frozen import frozen
from headrace.core.output import ToolCallDelta, join_calls
from headrace.text.call_syntax import CallSyntax
from headrace.text.reasoning import ReasoningMarks, ReasoningSplitter
from headrace.text.tool_calls import Gained, ToolCallParser


@frozen
class AnswerFormat:
    """Which parts an answer has.

    Fields:
        reasoning: its marks; None leaves reasoning in the text. is_reasoning_open: by the prompt.
        calls: how calls are written; None leaves them in the text.
        tool_names: what may be called. max_calls: None for any number.
        exact_names, calls_come_first, calls_stand_alone: see ToolCallParser.
        shown_token_ids: control tokens among the marks, whose text is needed.
    """

    reasoning: ReasoningMarks | None = None
    is_reasoning_open: bool = False
    calls: CallSyntax | None = None
    tool_names: tuple[str, ...] = ()
    max_calls: int | None = None
    exact_names: tuple[str, ...] = ()
    calls_come_first: bool = False
    calls_stand_alone: bool = False
    shown_token_ids: frozenset[int] = frozenset()

    @property
    def markers(self) -> tuple[str, ...]:
        """The marks of all parts."""
        marks = self.reasoning
        around = () if marks is None else (marks.opening, marks.closing)
        return around if self.calls is None else around + self.calls.markers


TEXT_ALONE = AnswerFormat()


@frozen
class Parts:
    """What a piece of an answer added to each part."""

    reasoning: str = ""
    text: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


class AnswerParts:
    """One answer's way through its format."""

    def __init__(self, form: AnswerFormat) -> None:
        self._splitter = None
        if form.reasoning is not None:
            self._splitter = ReasoningSplitter(form.reasoning, form.is_reasoning_open)
        self._parser = None
        if form.calls is not None:
            self._parser = ToolCallParser(
                form.calls,
                form.tool_names,
                form.max_calls,
                form.exact_names,
                form.calls_come_first,
                form.calls_stand_alone,
            )

    @property
    def is_reasoning(self) -> bool:
        return self._splitter is not None and self._splitter.is_inside

    @property
    def is_over(self) -> bool:
        """Whether the answer has all the calls it may have."""
        return self._parser is not None and self._parser.is_over

    @property
    def has_calls(self) -> bool:
        """Whether there are calls, each of them complete."""
        return (
            self._parser is not None and self._parser.num_calls > 0 and not self._parser.is_in_call
        )

    def append(self, text: str) -> Parts:
        """Take the next piece. Mutates: the text held back."""
        reasoning, answer = "", text
        if self._splitter is not None:
            reasoning, answer = self._splitter.append(text)
        if self._parser is None:
            return Parts(reasoning, answer)
        gained = self._parser.append(answer)
        return Parts(reasoning, gained.text, gained.calls)

    def flush(self, is_cut: bool = False) -> Parts:
        """End the answer: what was held back. `is_cut`: see ToolCallParser.flush."""
        reasoning, answer = ("", "") if self._splitter is None else self._splitter.flush()
        if self._parser is None:
            return Parts(reasoning, answer)
        parts = join_parts((self._parser.append(answer), self._parser.flush(is_cut)))
        return Parts(reasoning, parts.text, parts.calls)


def join_parts(pieces: Sequence[Parts | Gained]) -> Parts:
    """What several pieces added together."""
    return Parts(
        "".join(piece.reasoning for piece in pieces if isinstance(piece, Parts)),
        "".join(piece.text for piece in pieces),
        join_calls([call for piece in pieces for call in piece.calls]),
    )
