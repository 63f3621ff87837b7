"""Each cell's number, from times of tokens."""

from __future__ import annotations

import random

import pytest
from cells import CELLS, MODELS, Cell
from protocol import Answer


def test_prefill_is_prompt_tokens_over_the_time_of_the_first_token() -> None:
    cell = Cell("0.5b", "prefill", 1, 512, 1)
    assert cell.value([Answer(first_s=0.5, last_s=0.5, num_tokens=1)]) == pytest.approx(1024)


def test_decode_leaves_the_prompt_out_of_the_time() -> None:
    cell = Cell("0.5b", "decode", 1, 16, 5)
    assert cell.value([Answer(first_s=10.0, last_s=12.0, num_tokens=5)]) == pytest.approx(2)


def test_together_counts_until_the_last_answer_ends() -> None:
    cell = Cell("0.5b", "together", 2, 128, 4)
    answers = [Answer(1.0, 2.0, 4), Answer(1.5, 4.0, 4)]
    assert cell.value(answers) == pytest.approx(2)


def test_a_ratio_above_one_is_better_for_rates_and_for_times() -> None:
    assert Cell("0.5b", "decode", 1, 16, 64).ratio(ours=30, theirs=10) == pytest.approx(3)
    assert Cell("0.5b", "start", 1, 16, 1).ratio(ours=0.5, theirs=2) == pytest.approx(4)


def test_prompts_have_their_length_and_never_repeat() -> None:
    source = random.Random(0)
    cell = Cell("1.5b", "together", 32, 128, 64)
    prompts = cell.prompts(source) + cell.prompts(source)
    assert {len(prompt) for prompt in prompts} == {128}
    assert len({tuple(prompt) for prompt in prompts}) == 64


def test_an_answer_keeps_the_first_and_last_time_that_tokens_came() -> None:
    answer = Answer()
    for now_s, num_tokens in ((1.0, 0), (2.0, 1), (3.0, 1), (4.0, 3), (5.0, 3)):
        answer.note(now_s, num_tokens)
    assert answer == Answer(first_s=2.0, last_s=4.0, num_tokens=3)


def test_names_tell_cells_apart_and_every_model_is_known() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    assert {cell.model for cell in CELLS} == set(MODELS)
