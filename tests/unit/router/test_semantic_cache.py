"""Answers to questions that mean the same: what is compared, what must be equal, what is forgotten.

Vectors here are counts of words, so that a test says which questions are near.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest

from fakes.fake_clock import FakeClock
from fakes.upstreams import ask
from headrace.core.errors import ContextTooLong
from headrace.core.message import Message, Tool
from headrace.core.output import CompletionDelta, RequestOutput
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.core.routing_config import CacheConfig
from headrace.core.routing_options import SemanticConfig
from headrace.core.usage import Usage
from headrace.launch.nearest_texts import NearestTexts, Vector
from headrace.router.question_marks import read_marks
from headrace.router.response_cache import ResponseCache
from headrace.router.semantic_cache import SemanticCache, split_question


class WordTexts(NearestTexts):
    """The index with vectors that need no model."""

    def __init__(self) -> None:
        self._scopes = {}

    async def vector(self, text: str) -> Vector:
        if "too long" in text:
            raise ContextTooLong(9, 8)
        counts = np.zeros(64, np.float32)
        for word in text.lower().strip("?.").split():
            counts[zlib.crc32(word.encode()) % 64] += 1
        vector: Vector = counts / np.linalg.norm(counts)
        return vector


class Kept:
    """Both caches, and answers by their questions."""

    def __init__(self, max_entries: int = 100, **cache: float) -> None:
        self.clock = FakeClock()
        self.answers = ResponseCache(CacheConfig(**cache), self.clock)  # type: ignore[arg-type]
        config = SemanticConfig(min_similarity=0.75, max_entries=max_entries)
        self.cache = SemanticCache(config, self.answers, WordTexts())

    async def keep(self, request: GenerateRequest, text: str = "answer") -> None:
        question, key = await self.cache.read(request), self.answers.key_of(request)
        assert question is not None
        assert key is not None
        delta = CompletionDelta(0, text, finish_reason="stop")
        self.answers.keep(key, request, [RequestOutput("r", (delta,), Usage(), True, seed=4)])
        self.cache.keep(question, key)

    async def find(self, request: GenerateRequest) -> str | None:
        question = await self.cache.read(request)
        found = None if question is None else self.cache.find(question, request)
        return None if found is None else found[0].deltas[0].text


async def test_a_question_that_means_the_same_gets_the_answer() -> None:
    kept = Kept()
    await kept.keep(ask("please tell me how long eggs boil"))
    question = await kept.cache.read(ask("tell me how long eggs boil"))
    assert question is not None
    found = kept.cache.find(question, replace(ask(), request_id="r2"))
    assert found is not None
    assert found[0].request_id == "r2"
    assert found[0].seed is None
    assert found[1] == pytest.approx(np.sqrt(6 / 7), abs=1e-6)
    assert await kept.find(ask("how much is the fish today")) is None


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "b"},
        {"task": "other"},
        {"model": "auto:premium"},
        {"sampling": SamplingParams(max_tokens=4)},
        {"messages": (Message("system", "s"), Message("user", "tell me how long eggs boil"))},
        {
            "messages": (
                Message("user", "how long do eggs boil"),
                Message("assistant", "no"),
                Message("user", "tell me how long eggs boil"),
            )
        },
    ],
)
async def test_all_that_is_around_the_question_has_to_be_equal(other: dict[str, object]) -> None:
    kept = Kept()
    asked = ask("please tell me how long eggs boil", tenant="a")
    await kept.keep(asked)
    near = ask("tell me how long eggs boil", tenant="a")
    assert await kept.find(near) == "answer"
    assert await kept.find(replace(near, **other)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("how many mg of it may I take for 2 days", "how many mg of it may I take for 3 days"),
        ("is it safe to eat raw eggs today", "is it not safe to eat raw eggs today"),
        ("may you eat raw eggs today or so", "may you not eat raw eggs today or so"),
        ("flights from Rome to Paris next week", "flights from Paris to Rome next week"),
        ("what is the weather like in Rome", "what is the weather like in Oslo"),
        ("is it so that I can go", "is it so that I can't go"),
        ("what are the causes of the flu", "what are the symptoms of the flu"),
        ("how do I turn strings into integers", "how do I turn integers into strings"),
        ("how do I turn the heating on now", "how do I turn the heating off now"),
    ],
)
async def test_what_vectors_hardly_tell_apart_is_no_hit(one: str, other: str) -> None:
    kept = Kept()
    await kept.keep(ask(one))
    assert await kept.find(ask(one + " please")) == "answer"
    assert await kept.find(ask(other)) is None


def test_marks() -> None:
    marks = read_marks("Don’t we fly to Rome on 3.5.2024? Rome's never been “So” nice.")
    assert marks.numbers == ("3.5.2024",)
    assert marks.num_negations == 2
    assert marks.names == ("rome", "so")
    assert read_marks("I am. Is it?") == read_marks("what")


def test_what_is_no_question() -> None:
    assert split_question(ask(messages=(Message("user", "a"), Message("assistant", "b")))) is None
    assert split_question(ask(messages=(Message("user", None),))) is None
    assert split_question(GenerateRequest(request_id="r", model="m", prompt=(1, 2))) is None
    split = split_question(GenerateRequest(request_id="r", model="m", prompt="say"))
    assert split is not None
    assert (split[0], split[1].prompt) == ("say", "")


async def test_what_is_not_compared() -> None:
    cache = Kept().cache
    assert await cache.read(ask("x" * 1001)) is None
    assert await cache.read(ask("  ")) is None
    assert await cache.read(ask("hello", tools=(Tool("f"),))) is None
    assert await cache.read(ask("too long for it")) is None


async def test_old_answers_and_those_that_are_one_too_many_are_forgotten() -> None:
    kept = Kept(max_entries=2, ttl_s=10.0)
    for text in ("alpha beta gamma", "delta epsilon zeta", "eta theta iota"):
        await kept.keep(ask(text), text)
    assert len(kept.cache) == 2
    assert await kept.find(ask("alpha beta gamma now")) is None
    assert await kept.find(ask("delta epsilon zeta now")) == "delta epsilon zeta"
    kept.clock.advance(11)
    assert await kept.find(ask("delta epsilon zeta now")) is None
    assert len(kept.cache) == 1


async def test_rows_of_the_index_stay_with_their_keys() -> None:
    texts = WordTexts()
    words = [f"word{number} and{number}" for number in range(20)]
    for word in words:
        texts.add("s", word, await texts.vector(word))
    for word in words[::2]:
        texts.remove("s", word)
    for word in words[1::2]:
        (key, cosine), *_ = texts.nearest("s", await texts.vector(word), 1)
        assert (key, round(cosine, 5)) == (word, 1.0)
    assert texts.nearest("other", await texts.vector("x"), 1) == ()
    for word in words[1::2]:
        texts.remove("s", word)
    assert texts.nearest("s", await texts.vector("word1"), 4) == ()
