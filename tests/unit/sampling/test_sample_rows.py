"""Sampling rows: what each parameter becomes in the arrays that the sampling ops read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.core.request import SamplingParams
from headrace.core.step import NewRequest
from headrace.sampling.sample_rows import SampleGatherer, SampleRow, make_row, token_mask

VOCAB = 70


def row(prompt: tuple[int, ...] = (1, 2, 2), **changes: Any) -> SampleRow:
    new = {
        name: changes.pop(name) for name in ("stop_token_ids", "bad_words_ids") if name in changes
    }
    seed = changes.pop("seed_bits", 7)
    return make_row(NewRequest("r", prompt, SamplingParams(**changes), seed, **new), VOCAB)


def pairs(lists: Any, s: int) -> dict[int, float]:
    part = slice(lists.start[s], lists.start[s + 1])
    return dict(zip(lists.token_ids[part].tolist(), lists.values[part].tolist(), strict=True))


def test_numbers_keep_their_rows_and_types() -> None:
    inputs = SampleGatherer().gather(
        [
            row(temperature=0.0, top_k=-1, seed_bits=2**64 - 1),
            row(temperature=0.5, top_k=9, top_p=0.25, min_p=0.125, typical_p=0.75),
        ],
        [3, 2**31 + 5],
        VOCAB,
    )
    assert inputs.temperature.tolist() == [0.0, 0.5]
    assert inputs.top_k.tolist() == [0, 9]
    assert inputs.top_p.tolist() == [1.0, 0.25]
    assert inputs.min_p.tolist() == [0.0, 0.125]
    assert inputs.typical_p.tolist() == [1.0, 0.75]
    assert inputs.seeds.tolist() == [2**64 - 1, 7]
    assert inputs.positions.tolist() == [3, 2**31 + 5]
    assert inputs.seeds.dtype == np.uint64
    assert inputs.temperature.dtype == np.float32
    assert inputs.temperature.flags.c_contiguous
    assert inputs.prompt_counts is None
    assert inputs.bias is None
    assert inputs.token_mask is None


def test_the_largest_numbers_that_are_allowed_have_rows() -> None:
    """A number that has none would end the engine with everybody's requests."""
    inputs = SampleGatherer().gather(
        [
            row(top_k=2**31 - 1, min_p=1, typical_p=1e-300, top_p=1e-300, temperature=1e-300),
            row(repetition_penalty=0.01, logit_bias={VOCAB - 1: 100}),
        ],
        [0, 0],
        VOCAB,
    )
    assert inputs.top_k.tolist() == [2**31 - 1, 0]
    assert inputs.repetition_penalty.tolist() == [1.0, np.float32(0.01)]


def test_penalties_count_prompt_and_output_of_their_rows_only() -> None:
    plain, penalized = row(), row(presence_penalty=0.5)
    for each in (plain, penalized):
        each.append(5)
        each.append(5)
        each.append(1)
    inputs = SampleGatherer().gather([plain, penalized], [0, 0], VOCAB)
    assert pairs(inputs.prompt_counts, 0) == pairs(inputs.output_counts, 0) == {}
    assert pairs(inputs.prompt_counts, 1) == {1: 1, 2: 2}
    assert pairs(inputs.output_counts, 1) == {5: 2, 1: 1}


@pytest.mark.parametrize("name", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_each_penalty_counts(name: str) -> None:
    inputs = SampleGatherer().gather([row(**{name: 1.5})], [0], VOCAB)
    assert pairs(inputs.prompt_counts, 0) == {1: 1, 2: 2}
    assert getattr(inputs, name).tolist() == [1.5]


def test_stop_tokens_are_banned_until_min_tokens() -> None:
    request = row(min_tokens=2, stop_token_ids=(3, 4), logit_bias={3: 50.0, 9: 1.5})
    request.append(8)
    assert pairs(SampleGatherer().gather([request], [0], VOCAB).bias, 0) == {
        3: -np.inf,
        4: -np.inf,
        9: 1.5,
    }
    request.append(8)
    assert pairs(SampleGatherer().gather([request], [0], VOCAB).bias, 0) == {3: 50.0, 9: 1.5}


def test_bad_words_ban_their_last_token_after_their_beginning() -> None:
    request = row(bad_words_ids=((6,), (1, 2, 3), (2, 4)), prompt=(1, 2))
    assert pairs(SampleGatherer().gather([request], [0], VOCAB).bias, 0) == {
        6: -np.inf
    }  # prompts do not count
    request.append(1)
    request.append(2)
    banned = pairs(SampleGatherer().gather([request], [0], VOCAB).bias, 0)
    assert banned == {6: -np.inf, 3: -np.inf, 4: -np.inf}
    request.append(3)
    assert pairs(SampleGatherer().gather([request], [0], VOCAB).bias, 0) == {6: -np.inf}


def test_masks_allow_what_is_asked_and_everything_elsewhere() -> None:
    inputs = SampleGatherer().gather(
        [row(), row(allowed_token_ids=[0, 31, 32, 69, 69])], [0, 0], VOCAB
    )
    assert inputs.token_mask.dtype == np.uint32
    bits = np.unpackbits(inputs.token_mask.view(np.uint8), axis=1, bitorder="little")[:, :VOCAB]
    assert bits[0].all()
    assert np.flatnonzero(bits[1]).tolist() == [0, 31, 32, 69]


def test_token_mask_fills_whole_words() -> None:
    assert token_mask([0, 33], 33 + 1).tolist() == [1, 2]


class FixedRule:
    """A rule that allows some tokens, and remembers those that were chosen."""

    is_complete, error = False, None

    def __init__(self, *token_ids: int) -> None:
        self.token_ids, self.seen = token_ids, []

    def append(self, token_id: int) -> None:
        self.seen.append(token_id)

    def mask(self) -> Any:
        return token_mask(self.token_ids, VOCAB)

    def wait_for(self, work: object) -> None:
        raise AssertionError("nothing is computed beside")


def ruled(rule: FixedRule, **sampling: Any) -> SampleRow:
    return make_row(NewRequest("r", (1,), SamplingParams(**sampling), 7), VOCAB, rule)


def test_a_rule_and_allowed_tokens_both_hold() -> None:
    rows = [row(), ruled(FixedRule(3, 40)), ruled(FixedRule(3, 40), allowed_token_ids=[40, 41])]
    inputs = SampleGatherer().gather(rows, [0, 0, 0], VOCAB)
    bits = np.unpackbits(inputs.token_mask.view(np.uint8), axis=1, bitorder="little")[:, :VOCAB]
    assert bits[0].all()
    assert [np.flatnonzero(bits[index]).tolist() for index in (1, 2)] == [[3, 40], [40]]


def test_a_rule_sees_every_token() -> None:
    rule = FixedRule(3)
    request = ruled(rule)
    request.append(3)
    request.append(3)
    assert rule.seen == request.output_token_ids == [3, 3]


def test_what_a_step_gathers_is_of_its_own_rows() -> None:
    """What does not change from token to token is kept, and belongs to those rows in that order."""
    gatherer = SampleGatherer()
    first, second = row(temperature=0.5), row(temperature=1.5, logit_bias={3: 2.0})
    for rows in ([first], [first], [second], [first, second], [second, first], [first]):
        kept = gatherer.gather(rows, range(9, 9 + len(rows)), VOCAB)
        fresh = SampleGatherer().gather(rows, range(9, 9 + len(rows)), VOCAB)
        assert kept.temperature.tolist() == [each.sampling.temperature for each in rows]
        assert kept.positions.tolist() == fresh.positions.tolist()
        assert kept.seeds.tolist() == fresh.seeds.tolist()
        assert kept.adjusts_logits == fresh.adjusts_logits == (second in rows)
