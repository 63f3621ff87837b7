"""The equalities of scheduling on a real file, with the prompts of its own tokenizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from consistency.drafting import drafted, num_drafted
from fakes.real_tokenizers import real_tokenizer
from headrace.core.request import SamplingParams
from headrace.executor.draft_model import SHARPNESS
from headrace.models.llama import Llama
from headrace.ops.table import make_ops
from oracle import quality
from oracle.driver import load_model
from oracle.engine_driver import Answer, Asked, EngineDriver, Setting
from oracle.isas import supported_isas

MAX_POSITIONS = 1024
SCORED = SamplingParams(temperature=0.0, logprobs=5, prompt_logprobs=5)
SAMPLING = (
    SCORED,
    SamplingParams(temperature=0.8, top_p=0.9, logprobs=3),
    SamplingParams(temperature=1.0, repetition_penalty=1.1, presence_penalty=0.4, logprobs=3),
)


@pytest.fixture(scope="module")
def model(qwen05_path: Path) -> Llama:
    if not supported_isas():
        pytest.skip("the C++ extension is not built")
    return load_model(qwen05_path, make_ops("cpu", num_threads=2), MAX_POSITIONS)


@pytest.fixture(scope="module")
def asked(qwen05_path: Path) -> list[Asked]:
    tokenizer = real_tokenizer(qwen05_path)
    texts = [tuple(tokenizer.encode(text)) for text in quality.texts().values()]
    lengths = (5, 40, 90, 130)
    return [
        Asked(f"r{i}", texts[i % 3][:length], SAMPLING[i % 3], max_tokens=8, seed=i)
        for i, length in enumerate(lengths)
    ]


@pytest.fixture(scope="module")
def alone(model: Llama, asked: list[Asked]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    for each in asked:
        answers |= EngineDriver(model, Setting(has_prefix_cache=False)).generate([each])
    return answers


@pytest.mark.parametrize("max_num_batched_tokens", [4, 37, 512])
def test_batches_and_chunks(
    model: Llama, asked: list[Asked], alone: dict[str, Answer], max_num_batched_tokens: int
) -> None:
    setting = Setting(max_num_batched_tokens=max_num_batched_tokens)
    arrivals = {each.name: 2 * index for index, each in enumerate(reversed(asked))}
    assert EngineDriver(model, setting).generate(asked, arrivals) == alone


def test_cached_beginnings_and_preemption(
    model: Llama, asked: list[Asked], alone: dict[str, Answer]
) -> None:
    driver = EngineDriver(model, Setting(num_blocks=6, max_num_batched_tokens=64))
    for _ in range(2):
        assert driver.generate(asked) == alone


def test_one_thread(qwen05_path: Path, asked: list[Asked], alone: dict[str, Answer]) -> None:
    one = load_model(qwen05_path, make_ops("cpu", num_threads=1), MAX_POSITIONS)
    assert EngineDriver(one).generate(asked) == alone


def test_generated_tokens_score_the_same_as_a_prompt(model: Llama, asked: list[Asked]) -> None:
    first = Asked("a", asked[1].prompt, SCORED, max_tokens=24)
    generated = EngineDriver(model).generate([first])["a"]
    whole = Asked("b", (*first.prompt, *generated.token_ids), SCORED, max_tokens=1)
    scored = EngineDriver(model).generate([whole])["b"]
    assert scored.prompt_logprobs == generated.prompt_logprobs + generated.logprobs


INT8 = Setting(kv_cache_dtype="int8")


def test_int8_cache_in_batches_chunks_and_cached(
    qwen05_path: Path, model: Llama, asked: list[Asked], alone: dict[str, Answer]
) -> None:
    """Some of this model's layers keep their keys in bf16 beside values of int8."""
    assert 0 < sum(spec.has_uneven_keys for spec in model.config.attention) < 8
    answers: dict[str, Answer] = {}
    for each in asked:
        answers |= EngineDriver(model, replace(INT8, has_prefix_cache=False)).generate([each])
    assert answers != alone
    small = replace(INT8, num_blocks=6, max_num_batched_tokens=37)
    for driver in (EngineDriver(model, INT8), EngineDriver(model, small)):
        for _ in range(2):
            assert driver.generate(asked) == answers
    one = load_model(qwen05_path, make_ops("cpu", num_threads=1), MAX_POSITIONS)
    assert EngineDriver(one, INT8).generate(asked) == answers


DRAFTED = (
    SamplingParams(temperature=0.0, logprobs=2),
    SamplingParams(temperature=0.7, top_p=0.95, logprobs=2),
    SamplingParams(temperature=1.0, repetition_penalty=1.1, presence_penalty=0.4),
)


@pytest.mark.slow
def test_a_draft_model_of_another_size(qwen15_path: Path, qwen05_path: Path) -> None:
    """The 0.5B guesses for the 1.5B, alone and beside others, and is mostly right."""
    ops = make_ops("cpu", num_threads=2)
    target = load_model(qwen15_path, ops, MAX_POSITIONS)
    draft = load_model(qwen05_path, ops, MAX_POSITIONS, head_rows=76_000)
    tokenizer = real_tokenizer(qwen15_path)
    text = "<|im_start|>user\nWhat is a hash map?<|im_end|>\n<|im_start|>assistant\n"
    prompt = tuple(tokenizer.encode(text, parse_special=True))
    asked = [
        Asked(f"d{i}", prompt, sampling, max_tokens=16, seed=i)
        for i, sampling in enumerate(DRAFTED)
    ]
    plain = EngineDriver(target, Setting(has_prefix_cache=False)).generate(asked)
    setting = drafted(Setting(max_num_seqs=2), draft, sharpness=SHARPNESS)
    answers = EngineDriver(target, setting).generate(asked)
    assert answers == plain
    num_draft_tokens, num_accepted_tokens = num_drafted(answers)
    assert num_accepted_tokens > num_draft_tokens / 2 > 5
