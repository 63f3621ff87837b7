"""Names that somebody may have meant."""

from __future__ import annotations

import pytest

from headrace.core.near_names import did_you_mean, near_names

SETTINGS = (
    "engine.num_threads",
    "engine.max_num_seqs",
    "engine.max_restarts",
    "engine.isa",
    "server.port",
    "server.host",
)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("engine.num_thread", ("engine.num_threads",)),
        ("ENGINE.ISAA", ("engine.isa",)),
        ("engin.num_threads", ("engine.num_threads",)),
        ("engine.max_seqs", ("engine.max_num_seqs",)),
        # As long as some of them, and beginning like them all.
        ("engine.foo", ()),
        ("server.colour", ()),
        ("", ()),
    ],
)
def test_only_what_is_near_is_named(given: str, near: tuple[str, ...]) -> None:
    assert near_names(given, SETTINGS) == near


def test_another_size_of_the_same_model_is_near() -> None:
    known = ("qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b", "gemma3:270m", "model_a")
    assert near_names("qwen2.5-coder:0.6b", known) == known[:2]
    assert near_names("gemma3:1m", known) == ("gemma3:270m",)
    assert near_names("model_b", known) == ()


@pytest.mark.parametrize(
    ("given", "known", "near"),
    [
        ("coder", ("qwen2.5-coder:0.5b", "gemma3:270m"), ("qwen2.5-coder:0.5b",)),
        ("minilm", ("all-minilm-l6-v2", "gemma3:270m"), ("all-minilm-l6-v2",)),
        # Words of few letters are alike without being meant.
        ("gpu", ("auto", "cpu", "cuda", "reference"), ()),
        ("l", ("llama", "all"), ()),
        ("of", ("on", "off"), ("off",)),
    ],
)
def test_parts_of_a_name_are_near_and_short_words_are_not(
    given: str, known: tuple[str, ...], near: tuple[str, ...]
) -> None:
    assert near_names(given, known) == near


def test_names_that_are_as_near_are_all_named_up_to_a_number() -> None:
    assert near_names("model_a", ("model_b", "model_c", "colour")) == ()
    assert near_names("summaryx", ("summary1", "summary2", "summary3"), most=2) == (
        "summary1",
        "summary2",
    )
    assert did_you_mean("summaryx", ("summary1", "summary2", "label")) == (
        "Did you mean summary1 or summary2?"
    )
    assert did_you_mean(7, ("label",)) == ""
