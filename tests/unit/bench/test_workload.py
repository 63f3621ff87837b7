"""A load is decided by its seed; a prompts file is read as it stands."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from headrace.bench.engine_target import TokenPrompts
from headrace.bench.lengths import Lengths
from headrace.bench.percentile import percentile
from headrace.bench.word_prompts import WORDS, Calibration, WordPrompts
from headrace.bench.workload import (
    Ask,
    FilePrompt,
    file_asks,
    made_asks,
    poisson_arrivals,
    read_prompts,
)
from headrace.core.errors import ConfigError
from headrace.core.message import Message

PROMPTS, ANSWERS = Lengths(5, 50), Lengths(1, 9)


def asks(seed: int) -> list[Ask]:
    return list(made_asks(TokenPrompts(50_000, seed), 40, PROMPTS, ANSWERS, seed))


def test_a_seed_repeats_and_another_differs() -> None:
    assert asks(3) == asks(3) != asks(4)
    assert poisson_arrivals(50, 2.0, 3) == poisson_arrivals(50, 2.0, 3)
    assert poisson_arrivals(50, 2.0, 3) != poisson_arrivals(50, 2.0, 4)


def test_these_numbers_never_change() -> None:
    """A seed in a report must give the same load in a later version."""
    assert [round(at_s, 6) for at_s in poisson_arrivals(4, 10.0, 0)] == [
        0.0, 0.049038, 0.188196, 0.515642,
    ]  # fmt: skip
    assert [(len(ask.prompt), ask.max_tokens) for ask in asks(0)[:3]] == [(34, 6), (42, 9), (17, 4)]


def test_arrivals_are_a_poisson_process() -> None:
    arrivals_s = poisson_arrivals(20_001, 5.0, 7)
    gaps_s = [b - a for a, b in itertools.pairwise(arrivals_s)]
    assert arrivals_s[0] == 0 and min(gaps_s) >= 0
    assert sum(gaps_s) / len(gaps_s) == pytest.approx(0.2, rel=0.03)
    # The quantiles of an exponential distribution: -ln(1 - q) / rate.
    assert percentile(gaps_s, 50) == pytest.approx(0.1386, rel=0.05)
    assert percentile(gaps_s, 90) == pytest.approx(0.4605, rel=0.05)


def test_the_rate_scales_arrivals_and_leaves_lengths() -> None:
    slow, fast = poisson_arrivals(9, 1.0, 5), poisson_arrivals(9, 4.0, 5)
    assert slow == pytest.approx([4 * at_s for at_s in fast])


def test_prompts_differ_and_have_their_lengths() -> None:
    found = asks(1)
    assert len({ask.prompt for ask in found}) == 40
    assert all(5 <= len(ask.prompt) <= 50 and 1 <= ask.max_tokens <= 9 for ask in found)
    assert [ask.index for ask in found] == list(range(40))


def test_words_make_up_the_length_beside_what_the_server_adds() -> None:
    maker = WordPrompts(0, Calibration(tokens_per_word=1.25, overhead_tokens=20), None)
    words = maker.make(120).split()
    assert len(words) == 80 and set(words) <= set(WORDS)
    with pytest.raises(ConfigError, match=r"--prompt-tokens is 20; allowed: 21 or more"):
        maker.make(20)


def test_a_run_has_words_of_its_own_at_the_front() -> None:
    """A server that keeps prefixes must not have them from the run before."""
    calibration = Calibration(tokens_per_word=1.0, overhead_tokens=0)

    def run(fresh_seed: int | None) -> list[list[str]]:
        maker = WordPrompts(5, calibration, fresh_seed)
        return [maker.make(num_words).split() for num_words in (40, 9, 3, 40)]

    assert run(None) == run(None) and run(1) == run(1)
    plain, first, second = run(None), run(1), run(2)
    for a, b, c in zip(plain, first, second, strict=True):
        assert len(a) == len(b) == len(c)
        assert (a[:1], a[9:]) == (b[:1], b[9:]) == (c[:1], c[9:])
        assert a[1:9] != b[1:9] != c[1:9]
    assert first[0][1:9] != first[3][1:9]


def test_a_file_is_read_in_order_and_again_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    chat = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi\u2028there"},
    ]
    lines = [{"prompt": "One"}, {"messages": chat, "max_tokens": 7}]
    path.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n")
    read = read_prompts(path)
    messages = (Message("system", "Be short."), Message("user", "Hi\u2028there"))
    assert read == [FilePrompt("One", None), FilePrompt(messages, 7)]
    made = list(file_asks(read, 3, Lengths(4, 4), seed=0))
    assert [(ask.prompt, ask.max_tokens) for ask in made] == [
        ("One", 4), (messages, 7), ("One", 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("", "", "The file has no line."),
        ('{"prompt": "a"}\nnonsense', ":2", "Expecting value"),
        ("[1]", ":1", ""),
        ("{}", ":1", "Give exactly one of both."),
        ('{"prompt": "a", "messages": []}', ":1", "Give exactly one of both."),
        ('{"prompt": "a", "top_p": 1}', ":1", "Unknown: top_p."),
        ('{"prompt": ""}', ":1", "prompt is a text."),
        ('{"prompt": ["a"]}', ":1", "prompt is a text."),
        ('{"messages": []}', ":1", "messages is a list"),
        ('{"messages": [{"role": "user"}]}', ":1", "messages is a list"),
        ('{"prompt": "a", "max_tokens": 0}', ":1 max_tokens", ""),
        ('{"prompt": "a", "max_tokens": true}', ":1 max_tokens", ""),
        ("[" * 100_000, ":1", ""),
    ],
)
def test_a_bad_line_is_named(text: str, where: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_prompts(path)
    assert f"{path}{where}" in refused.value.message
    assert refused.value.hint.startswith(hint)
    assert len(refused.value.message) < 700


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        read_prompts(tmp_path / "none.jsonl")
    (tmp_path / "latin").write_bytes(b'{"prompt": "\xe9"}')
    with pytest.raises(ConfigError, match="Byte 12 is not UTF-8"):
        read_prompts(tmp_path / "latin")
