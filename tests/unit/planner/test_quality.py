"""Metrics and their intervals, beside values worked out by hand or by another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.planner.interval import drawn_together, interval, paired_difference
from headrace.planner.overlap import rouge_l, set_f1, word_f1, words
from headrace.planner.quality import Contains, ExactMatch, JsonFields, LabelF1, RougeL
from headrace.planner.workload import Metric, Sample

SAMPLE = Sample("1", {"label": "Money", "seo": {"title": "A b c d", "tags": ["x", "y z"]}})


def test_rouge_l_of_the_paper() -> None:
    """Lin 2004, section 3: S1 and S2 against R, with beta 1."""
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == 0.75
    assert rouge_l("the gunman kill police", reference) == 0.5
    assert rouge_l("", "") == 1.0
    assert rouge_l("x", "") == 0.0


@given(
    st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=70)
)
def test_the_bit_vector_finds_the_longest_common_subsequence(a: list[str], b: list[str]) -> None:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = (
                table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
            )
    expected = 2 * table[-1, -1] / (len(a) + len(b)) if a or b else 1.0
    assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(expected)


def test_words_and_sets() -> None:
    assert words("Über-Größe: 3,5!") == ["über", "grösse", "3", "5"]
    assert words("東京 Tokyo") == ["東", "京", "tokyo"]
    assert word_f1("a b b", "b a c") == pytest.approx(2 * 2 / 6)
    assert set_f1(["New York", "x"], ["new  york"]) == pytest.approx(2 / 3)


def test_exact_match_reads_a_field() -> None:
    metric = ExactMatch(Metric(kind="exact", reference="label", answer_field="topic"))
    assert metric.score(SAMPLE, '```json\n{"topic": "money."}\n```') == 1.0
    assert metric.score(SAMPLE, '{"other": 1}') == 0.0
    assert metric.score(SAMPLE, "money") == 0.0


def test_phrases_that_are_kept() -> None:
    metric = Contains(Metric(kind="contains", reference="facts"))
    sample = Sample("1", {"facts": ["vier Tage", "60", "€41.6 million", "Odile S."]})
    assert metric.score(sample, "Nach vier Tagen: 600, Odile S") == 0.5
    assert metric.score(sample, "60 and 41.6 Million, vierTage") == 0.5
    assert metric.score(sample, "") == 0.0


def test_json_fields() -> None:
    metric = JsonFields(
        Metric(
            kind="json_fields",
            reference="seo",
            fields={"title": "overlap", "tags": "set", "slug": "present"},
        )
    )
    answer = '{"title": "a b", "tags": ["X", "q"], "slug": "s"}'
    assert metric.score(SAMPLE, answer) == pytest.approx((2 * 2 / 6 + 2 * 1 / 4 + 1) / 3)
    assert metric.score(SAMPLE, "no json") == 0.0
    assert metric.score(SAMPLE, "[1]") == 0.0
    assert metric.score(SAMPLE, "[" * 100_000) == 0.0


def test_macro_f1_is_that_of_its_definition() -> None:
    labels = ("a", "b", "c", "never")
    metric = LabelF1(Metric(kind="label_f1", reference="label", labels=labels))
    pairs = [("a", "a"), ("a", "b"), ("b", "b"), ("b", "b"), ("c", "a"), ("c", "nonsense")]
    rows = np.array([metric.row(Sample("s", {"label": true}), said) for true, said in pairs])
    # a: 1 hit of 2 said, 2 true; b: 2 hits of 3 said, 2 true; c: none of 2.
    expected = (2 * 1 / 4 + 2 * 2 / 5 + 0) / 3
    assert metric.combine(rows.sum(axis=0)) == pytest.approx(expected)
    assert metric.row(Sample("s", {"label": "a"}), "nonsense") == metric.failed(
        Sample("s", {"label": "a"})
    )


def _rows(values: list[float]) -> np.ndarray:
    return np.array([(value, 1.0) for value in values])


MEAN = RougeL(Metric(kind="rouge_l")).combine


def test_the_interval_of_a_mean_is_about_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    found = interval(_rows(values.tolist()), MEAN, 0.95)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert found == interval(_rows(values.tolist()), MEAN, 0.95)


def test_intervals_hold_as_often_as_they_say() -> None:
    source = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        found = interval(_rows(source.binomial(1, 0.7, 60).astype(float).tolist()), MEAN, 0.9)
        held += found.low <= 0.7 <= found.high
    assert 0.83 <= held / 200 <= 0.97


def test_copies_of_samples_prove_nothing_more() -> None:
    """An interval of 8 samples stays that of 8, however often each stands in the file."""
    values = np.random.default_rng(7).uniform(0, 1, 8).tolist()
    names = [f"a{place}" for place in range(8)]
    once = interval(_rows(values), MEAN, 0.95)
    found = interval(drawn_together(_rows(values * 10), names * 10), MEAN, 0.95)
    for name in ("mean", "low", "high", "count"):
        assert getattr(found, name) == pytest.approx(getattr(once, name))
    assert interval(_rows(values * 10), MEAN, 0.95).low > once.low + 0.05


def test_intervals_of_samples_that_repeat_hold_as_often_as_they_say() -> None:
    """30 different ones, each once to nine times: drawn one by one they would hold 56 %."""
    source = np.random.default_rng(8)
    held = 0
    for _ in range(200):
        values = source.uniform(0, 1, 30)
        names = np.repeat(np.arange(30), source.integers(1, 10, 30))
        rows = drawn_together(_rows(values[names].tolist()), [str(name) for name in names])
        found = interval(rows, MEAN, 0.95)
        held += found.low <= 0.5 <= found.high
    assert held / 200 >= 0.92


def test_equal_samples_are_no_certainty() -> None:
    found = interval(_rows([1.0] * 20), MEAN, 0.95)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - np.log(40) / 20)
    assert interval(_rows([1.0]), MEAN, 0.95).low == 0.0


def test_pairs_are_surer_than_two_intervals() -> None:
    hard = np.random.default_rng(3).uniform(0, 1, 50)
    a, b = _rows((hard * 0.9).tolist()), _rows(hard.tolist())
    paired = paired_difference(a, b, MEAN, 0.95)
    assert paired.mean == pytest.approx(-0.1 * hard.mean())
    one = interval(a, MEAN, 0.95)
    assert paired.high - paired.low < (one.high - one.low) / 4
    same = paired_difference(b, b, MEAN, 0.95)
    assert same.mean == 0 and same.low < 0 < same.high


def test_perfect_labels_are_no_certainty() -> None:
    """Rows differ by their label, and every resample scores 1 all the same."""
    metric = LabelF1(Metric(kind="label_f1", reference="label", labels=("a", "b")))
    rows = np.array([metric.row(Sample("s", {"label": label}), label) for label in "abab"])
    found = interval(rows, metric.combine, 0.95)
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(1 - np.log(40) / 4)


def test_a_difference_that_is_always_the_same_is_no_certainty() -> None:
    found = paired_difference(_rows([0.75] * 50), _rows([1.0] * 50), MEAN, 0.95)
    room = np.log(40) / 50
    assert found.mean == -0.25
    assert (found.low, found.high) == pytest.approx((-0.25 - 0.75 * room, -0.25 + 1.25 * room))


@pytest.mark.parametrize("count", [5, 8, 15])
def test_intervals_of_few_samples_hold_as_often_as_they_say(count: int) -> None:
    """Plain percentiles hold 81, 87 and 91 % here."""
    source = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        found = interval(_rows(source.uniform(0, 1, count).tolist()), MEAN, 0.95)
        held += found.low <= 0.5 <= found.high
    assert held / 300 >= 0.92


def test_many_samples_are_drawn_in_parts() -> None:
    values = np.random.default_rng(6).uniform(0, 1, 5000)
    found = interval(_rows(values.tolist()), MEAN, 0.95)
    half = 1.96 * values.std() / np.sqrt(5000)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
