"""The whole library on a real file: threads, text at both ends, `n`, streams, caches, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace import LLM, SamplingParams
from headrace.core.errors import OutOfMemory
from headrace.llm import Completion, Generation
from oracle import quality
from oracle.isas import supported_isas

SEEDED = SamplingParams(temperature=0.9, top_p=0.95, seed=11, max_tokens=24, logprobs=3)
SAMPLING = (
    SamplingParams(temperature=0.0, max_tokens=32, logprobs=2, prompt_logprobs=1),
    SEEDED,
    SamplingParams(temperature=1.0, seed=5, max_tokens=24, n=3, presence_penalty=0.5),
    SamplingParams(temperature=0.7, seed=-3, max_tokens=32, stop=["\n\n"], min_p=0.05),
)
MAX_MODEL_LEN = 224


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    """Beginnings of the texts; every other one begins like the one before it."""
    prose, code = quality.texts()["prose"], quality.texts()["code"]
    return [prose[:120], code[:400], prose[:420], code[:403], prose[:425], code[:90]]


@pytest.fixture(scope="module")
def roomy(qwen05_path: Path) -> Iterator[LLM]:
    """Room for everything at once."""
    if not supported_isas():
        pytest.skip("the C++ extension is not built")
    with LLM(str(qwen05_path), max_model_len=MAX_MODEL_LEN, num_threads=2) as llm:
        yield held(llm)


def held(llm: LLM) -> LLM:
    """An engine whose guesses do not depend on how busy the machine is."""
    assert llm.engine.drafting is not None
    llm.engine.drafting.hold_costs()
    return llm


@pytest.fixture(scope="module")
def crowded(qwen05_path: Path, roomy: LLM) -> Iterator[LLM]:
    """As little memory as one longest request takes, small steps, one thread, no cache, eager."""
    options = {
        "max_model_len": MAX_MODEL_LEN,
        "max_num_batched_tokens": 24,
        "max_num_seqs": 8,
        "num_threads": 1,
        "enable_prefix_caching": False,
        "eager": True,
    }
    with pytest.raises(OutOfMemory) as refused:
        LLM(str(qwen05_path), memory_bytes=64 * 2**20, **options)
    with LLM(str(qwen05_path), memory_bytes=refused.value.needed_bytes, **options) as llm:
        yield llm


@pytest.fixture(scope="module")
def drafting(qwen05_path: Path, roomy: LLM) -> Iterator[LLM]:
    """Guesses for every request, in small steps."""
    options = {"max_model_len": MAX_MODEL_LEN, "max_num_batched_tokens": 40, "max_num_seqs": 8}
    with LLM(str(qwen05_path), speculative="prompt-lookup", **options) as llm:
        yield held(llm)


@pytest.fixture(scope="module")
def params(prompts: list[str]) -> list[SamplingParams]:
    return [SAMPLING[index % len(SAMPLING)] for index in range(len(prompts))]


@pytest.fixture(scope="module")
def alone(roomy: LLM, prompts: list[str], params: list[SamplingParams]) -> list[Generation]:
    """Each answered with the engine to itself, as far as it computes more than a cache holds."""
    return [roomy.generate(*pair)[0] for pair in zip(prompts, params, strict=True)]


def answers(generations: list[Generation]) -> list[object]:
    """What must be equal: texts, tokens, bits of logprobs, reasons; not times and cache hits."""
    return [(each.completions, each.prompt_token_ids, each.prompt_logprobs) for each in generations]


def test_concurrent_requests_and_cached_beginnings(
    roomy: LLM, prompts: list[str], params: list[SamplingParams], alone: list[Generation]
) -> None:
    together = roomy.generate(prompts, params)
    assert answers(together) == answers(alone)
    assert sum(each.usage.cached_input_tokens for each in together) > 100


def test_preempted_in_little_memory_without_a_cache(
    crowded: LLM, prompts: list[str], params: list[SamplingParams], alone: list[Generation]
) -> None:
    together = crowded.generate(prompts, params)
    assert answers(together) == answers(alone)
    assert sum(each.times.num_preemptions for each in together if each.times is not None) > 0
    assert sum(each.usage.cached_input_tokens for each in together) == 0


def test_streamed_and_whole(
    roomy: LLM, prompts: list[str], params: list[SamplingParams], alone: list[Generation]
) -> None:
    for prompt, sampling, whole in zip(prompts, params, alone, strict=True):
        text = dict.fromkeys(range(sampling.n), "")
        for output in roomy.stream(prompt, sampling):
            for delta in output.deltas:
                text[delta.index] += delta.text
        assert text == {each.index: each.text for each in whole.completions}


def test_with_guesses_and_without(
    drafting: LLM, prompts: list[str], params: list[SamplingParams], alone: list[Generation]
) -> None:
    """Penalties, seeds, stop strings, log-probabilities of prompt and answer, n, a shared cache."""
    assert answers(drafting.generate(prompts, params)) == answers(alone)


def test_a_text_that_is_copied(roomy: LLM, drafting: LLM) -> None:
    lines = "\n".join(f"{name} = load({name!r})" for name in ("red", "green", "blue"))
    prompt = f"# a.py\n{lines}\n\n# b.py, the same as a.py\n"
    for sampling in (
        SamplingParams(temperature=0.0, max_tokens=40, logprobs=2),
        SamplingParams(temperature=0.5, seed=3, max_tokens=40, stop=["blue"]),
    ):
        (plain,), (guessed,) = roomy.generate(prompt, sampling), drafting.generate(prompt, sampling)
        assert answers([guessed]) == answers([plain])
        assert guessed.usage.accepted_draft_tokens > 2
        assert plain.usage.accepted_draft_tokens == plain.usage.rejected_draft_tokens == 0


def test_a_prediction_makes_an_answer_faster_and_not_another(roomy: LLM) -> None:
    """With the default settings: guesses are for those who bring a prediction."""
    messages = [{"role": "user", "content": "Count from one to eight, in words."}]
    sampling = SamplingParams(temperature=0.0, max_tokens=32, logprobs=1)
    plain = roomy.chat(messages, sampling)
    said = plain.completions[0].text
    middle = len(said) // 2
    nearly = f"{said[:middle]}zz{said[middle:]}"
    guessed = roomy.chat(messages, sampling, prediction=nearly)
    assert answers([guessed]) == answers([plain])
    assert guessed.usage.accepted_draft_tokens > 1
    assert plain.usage.accepted_draft_tokens == 0


def test_answers_of_n_are_different_and_the_first_is_that_of_one(
    roomy: LLM, prompts: list[str]
) -> None:
    (one,) = roomy.generate(prompts[0], SEEDED)
    (three,) = roomy.generate(prompts[0], replace(SEEDED, n=3))
    assert three.completions[0] == one.completions[0]
    assert len({completion.token_ids for completion in three.completions}) == 3


def test_another_seed_is_another_answer(roomy: LLM, prompts: list[str]) -> None:
    def answer(seed: int) -> Completion:
        return roomy.generate(prompts[0], replace(SEEDED, seed=seed))[0].completions[0]

    assert answer(11) == answer(11)
    assert answer(11).token_ids != answer(12).token_ids


def test_text_and_its_token_ids(roomy: LLM, alone: list[Generation]) -> None:
    (again,) = roomy.generate([alone[1].prompt_token_ids], SEEDED)
    assert again.completions == alone[1].completions
