"""The threshold of the semantic cache, measured with the encoder that it uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.core.config import Config
from headrace.core.errors import ConfigError
from headrace.launch.pair_threshold import (
    BUILT_IN,
    MIN_PAIRS,
    hits_needed,
    measure,
    measure_pairs,
    read_pairs,
)


def test_what_a_threshold_lets_through() -> None:
    found = [(0.9, True), (0.8, True), (0.7, True), (0.85, False), (0.6, False), (0.0, True)]
    row = measure(found, 0.8)
    assert (row["num_hits"], row["num_false"], row["hit_rate"]) == (3, 1, 0.5)
    assert row["false_hit_rate"] == pytest.approx(1 / 3)
    # Wilson's interval of 1 in 3.
    assert row["false_hit_rate_95"] == pytest.approx(0.7923, abs=1e-3)
    assert measure(found, 0.95)["false_hit_rate_95"] == 1.0


def test_the_pairs_that_come_along_are_two_questions_each() -> None:
    pairs = read_pairs([BUILT_IN])
    assert len(pairs) == len({(pair.one, pair.other) for pair in pairs}) >= 150
    assert min(sum(pair.is_same for pair in pairs), sum(not pair.is_same for pair in pairs)) >= 50
    assert all(pair.one != pair.other for pair in pairs)


def test_pairs_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"one": "a", "other": "b", "same": "yes"}\n')
    with pytest.raises(
        ConfigError, match=r"pairs\.jsonl:1 is .* allowed: a record with one and other"
    ):
        read_pairs([path])
    path.write_text("")
    with pytest.raises(ConfigError, match="no pairs"):
        read_pairs([path])
    path.write_text('{"one": "a", "other": "b", "same": true}\n' * (MIN_PAIRS - 1))
    with pytest.raises(ConfigError, match="19 pairs; allowed: at least 20 pairs"):
        read_pairs([path])
    path.write_text('{"one": "a", "other": "b", "same": true}\n' * MIN_PAIRS)
    assert len(read_pairs([path])) == MIN_PAIRS


@pytest.mark.parametrize(("most", "needed"), [(0.01, 381), (0.05, 73), (0.5, 4), (0.0, None)])
def test_how_many_hits_show_a_share(most: float, needed: int | None) -> None:
    assert hits_needed(most) == needed
    if needed is not None:
        bound = [measure([(1.0, True)] * n, 0.9)["false_hit_rate_95"] for n in (needed, needed - 1)]
        assert bound[0] <= most < bound[1]


def test_a_threshold_is_chosen_by_its_false_hits(minilm_path: Path) -> None:
    found = measure_pairs(Config(), [], str(minilm_path), 0.05)
    rows, chosen = found["thresholds"], found["chosen"]
    rates = [row["hit_rate"] for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert chosen is not None
    assert chosen["false_hit_rate"] <= 0.05 < chosen["false_hit_rate_95"]
    assert (found["is_shown"], found["hits_needed"]) == (False, 73)
    # Lower ones let near misses through, and more of what is the same.
    assert rows[0]["num_false"] > chosen["num_false"]
    assert rates[0] > chosen["hit_rate"] > 0.1
