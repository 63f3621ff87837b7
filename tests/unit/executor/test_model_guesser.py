"""What a draft model's guesses teach about the next ones."""

from __future__ import annotations

from typing import cast

import pytest

from fakes.fake_clock import FakeClock
from headrace.core.request import SamplingParams
from headrace.core.step import NewRequest, ScheduledRequest
from headrace.executor.draft_model import DraftModel
from headrace.executor.model_guesser import DraftedRequest, ModelGuesser
from headrace.spec.draft_length import DraftLength

NOT_ASKED = cast("DraftModel", None)
"""Learning does not touch the model."""


def request(*guessed: int) -> DraftedRequest:
    new = NewRequest("a", (1, 2, 3), SamplingParams(), seed=1)
    return DraftedRequest(
        new, None, frozenset(), guessed=guessed, probabilities=(0.5,) * len(guessed)
    )


def row(num_draft_tokens: int) -> ScheduledRequest:
    return ScheduledRequest("a", [0] * (1 + num_draft_tokens), 3, [0], 1, True, num_draft_tokens)


@pytest.mark.parametrize(
    ("guessed", "num_computed", "chosen", "num_right", "num_wrong"),
    [
        ((7,), 0, [7], 1, 0),  # not computed, and right
        ((7,), 0, [8], 0, 1),  # not computed, and wrong
        ((7, 8, 9), 1, [7, 8], 2, 0),  # the second came true uncomputed, the third nobody knows
        ((7, 8, 9), 1, [7, 5], 1, 1),
        ((7, 8), 2, [6], 0, 1),  # what follows a wrong guess says nothing
        ((), 0, [6], 0, 0),
    ],
)
def test_guesses_count_whether_they_were_computed_or_not(
    guessed: tuple[int, ...], num_computed: int, chosen: list[int], num_right: int, num_wrong: int
) -> None:
    guesser = ModelGuesser(NOT_ASKED, DraftLength({}, pass_ratio=0.3), FakeClock())
    asked = request(*guessed)
    guesser.learn(asked, row(num_computed), chosen, lost=0.0)
    known = asked.chances.mean
    assert known.num_hits == pytest.approx(num_right, rel=0.1)
    assert known.num_tried - known.num_hits == pytest.approx(num_wrong, rel=0.1)
