"""A request's tokens and log-probabilities do not depend on how it was scheduled, to the bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from consistency.conftest import ARCHITECTURES
from consistency.mixed_requests import SAMPLING, requests
from headrace.core.request import SamplingParams
from headrace.models.llama import Llama
from oracle.engine_driver import Answer, Asked, EngineDriver, Setting
from oracle.tiny_models import token_ids

SCORED = SamplingParams(temperature=0.0, logprobs=5, prompt_logprobs=5)


@pytest.mark.parametrize("size", [2, 5, 10])
def test_alone_and_in_shuffled_batches(
    model: Llama, setting: Setting, alone: dict[str, Answer], size: int
) -> None:
    order = random.Random(size).sample(requests(), k=10)
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        arrivals = {asked.name: 2 * index for index, asked in enumerate(batch)}
        answers = EngineDriver(model, setting).generate(batch, arrivals)
        assert answers == {asked.name: alone[asked.name] for asked in batch}


@pytest.mark.parametrize("max_num_batched_tokens", [1, 7, 64, 333])
def test_any_chunk_size(
    model: Llama, setting: Setting, alone: dict[str, Answer], max_num_batched_tokens: int
) -> None:
    chunks = replace(setting, max_num_batched_tokens=max_num_batched_tokens, has_prefix_cache=False)
    assert EngineDriver(model, chunks).generate(requests()) == alone


def test_preempted_and_recomputed(model: Llama, setting: Setting) -> None:
    asked = [
        Asked(f"r{i}", tuple(token_ids(27 + i, seed=i)), SAMPLING[i], max_tokens=36, seed=i)
        for i in range(5)
    ]
    alone: dict[str, Answer] = {}
    for each in asked:
        alone |= EngineDriver(model, setting).generate([each])
    crowded = EngineDriver(model, replace(setting, num_blocks=6, max_num_batched_tokens=40))
    answers = crowded.generate(asked)
    assert sum(answer.num_preemptions for answer in answers.values()) >= 2
    assert answers == alone


def test_cached_and_cold_beginnings(
    model: Llama, setting: Setting, alone: dict[str, Answer]
) -> None:
    driver = EngineDriver(model, replace(setting, num_blocks=200))
    assert driver.generate(requests()) == alone
    again = driver.generate(requests())
    assert sum(answer.num_cached_tokens for answer in again.values()) > 60
    assert again == alone


def test_a_beginning_that_another_request_computed(model: Llama, setting: Setting) -> None:
    beginning = tuple(token_ids(70))
    first = Asked("first", (*beginning, 7, 8, 9), SamplingParams(temperature=1.0, logprobs=5))
    other = Asked("other", (*beginning, 11), SamplingParams(temperature=0.0, logprobs=5))
    cold = EngineDriver(model, setting).generate([other])
    driver = EngineDriver(model, setting)
    driver.generate([first])
    warm = driver.generate([other])
    assert warm["other"].num_cached_tokens == 70
    assert warm == cold


def test_generated_tokens_score_the_same_as_a_prompt(model: Llama, setting: Setting) -> None:
    asked = Asked("a", tuple(token_ids(37)), SCORED, max_tokens=30)
    generated = EngineDriver(model, setting).generate([asked])["a"]
    whole = Asked("b", (*asked.prompt, *generated.token_ids), SCORED, max_tokens=1)
    scored = EngineDriver(model, setting).generate([whole])["b"]
    assert scored.prompt_logprobs == generated.prompt_logprobs + generated.logprobs


def test_one_thread_and_two(
    model: Llama,
    setting: Setting,
    alone: dict[str, Answer],
    tiny: Callable[..., Llama],
    isa: str,
) -> None:
    name = next(name for name in ARCHITECTURES if model is tiny(name, isa, 2))
    assert EngineDriver(tiny(name, isa, 1), setting).generate(requests()) == alone


def test_answers_are_not_all_alike(alone: dict[str, Answer]) -> None:
    """The equalities above would hold for a model that ignores its input, too."""
    assert len({tuple(answer.token_ids[:3]) for answer in alone.values()}) > 7
    assert all(answer.error is None for answer in alone.values())
    chosen = {record.token_id for answer in alone.values() for record in answer.logprobs}
    assert len(chosen) > 8


def test_int8_is_not_bf16(model: Llama, setting: Setting, alone: dict[str, Answer]) -> None:
    """The cache's type reaches the kernels: log-probabilities differ in their last digits."""
    other = replace(setting, kv_cache_dtype="int8" if setting.kv_cache_dtype == "bf16" else "bf16")
    asked = next(each for each in requests() if each.sampling.prompt_logprobs == 3)
    (answer,) = EngineDriver(model, other).generate([asked]).values()
    known = [record.logprob for record in alone[asked.name].prompt_logprobs]
    found = [record.logprob for record in answer.prompt_logprobs]
    assert found != known
    assert found == pytest.approx(known, abs=0.5)
