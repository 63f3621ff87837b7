"""Drafts change when a token is computed, never what it is: the bits are equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import cycle, islice

import pytest

from consistency.mixed_requests import SAMPLING, requests
from fakes.byte_tokenizer import byte_tokenizer
from fakes.fake_clock import FakeClock
from fakes.guessing_runner import GuessingRunner
from headrace.core.request import RepetitionDetection, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.executor.drafting_runner import DraftingRunner, Runner
from headrace.models.llama import Llama
from headrace.sampling.logits_rule import LogitsRules
from oracle.engine_driver import Answer, Asked, EngineDriver, Setting
from oracle.isas import supported_isas
from oracle.tiny_models import token_ids

FORMS = (
    None,
    StructuredOutputs(json={"type": "array", "items": {"type": "integer"}, "minItems": 9}),
    StructuredOutputs(regex="[a-f]{20}(xy)*"),
    StructuredOutputs(choice=["positively", "negatively"]),
)
COMBINED = tuple(each for each in SAMPLING if each.allowed_token_ids is None)


def guessing(model: Llama, answers: Mapping[str, Answer]) -> Callable[[Runner], Runner]:
    known = {name: answer.token_ids for name, answer in answers.items()}
    return lambda runner: GuessingRunner(runner, known, model.config.vocab_size)


def looking_up(runner: Runner) -> Runner:
    """Time stands still: how much is guessed does not depend on how busy the machine is."""
    return DraftingRunner(runner, FakeClock(), is_for_all=True)


def each_alone(
    model: Llama, asked: list[Asked], setting: Setting, rules: LogitsRules | None = None
) -> dict[str, Answer]:
    cold = replace(setting, has_prefix_cache=False, drafts=None)
    answers: dict[str, Answer] = {}
    for each in asked:
        answers |= EngineDriver(model, cold, rules).generate([each])
    return answers


def num_drafted(answers: Mapping[str, Answer]) -> tuple[int, int]:
    """Tokens that were drafted, and of them those that were right."""
    drafted = sum(answer.num_draft_tokens for answer in answers.values())
    return drafted, sum(answer.num_accepted_tokens for answer in answers.values())


@pytest.fixture(scope="module")
def best(tiny: Callable[[str, str, int], Llama]) -> Llama:
    if not supported_isas():
        pytest.skip("the C++ extension is not built")
    return tiny("qwen2-wide", supported_isas()[-1], 2)


@pytest.mark.parametrize("max_num_batched_tokens", [13, 512])
def test_every_kind_of_sampling_on_every_instruction_set(
    model: Llama, setting: Setting, alone: dict[str, Answer], max_num_batched_tokens: int
) -> None:
    drafted = replace(
        setting,
        drafts=guessing(model, alone),
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=5,
    )
    answers = EngineDriver(model, drafted).generate(requests())
    num_draft_tokens, num_accepted_tokens = num_drafted(answers)
    assert 10 < num_accepted_tokens < num_draft_tokens
    assert answers == alone


def long_answers() -> list[Asked]:
    return [
        Asked(f"r{i}", tuple(token_ids(27 + i, seed=i)), SAMPLING[i], max_tokens=36, seed=i)
        for i in range(5)
    ]


def test_preempted_with_drafts(best: Llama) -> None:
    alone = each_alone(best, long_answers(), Setting())
    crowded = Setting(num_blocks=6, max_num_batched_tokens=40, drafts=guessing(best, alone))
    answers = EngineDriver(best, crowded).generate(long_answers())
    assert sum(answer.num_preemptions for answer in answers.values()) >= 1
    assert num_drafted(answers)[1] > 20
    assert answers == alone


def test_cached_blocks_hold_chosen_tokens_only(best: Llama) -> None:
    """What a draft left behind in the cache is found by nobody."""
    alone = each_alone(best, long_answers(), Setting())
    drafted = EngineDriver(best, Setting(num_blocks=200, drafts=guessing(best, alone)))
    drafted.generate(long_answers())
    following = [
        Asked(
            f"n{i}",
            (*each.prompt, *alone[each.name].token_ids[: 30 + i], 9),
            SamplingParams(temperature=0.0, logprobs=5),
        )
        for i, each in enumerate(long_answers())
    ]
    cold = each_alone(best, following, Setting())
    answers = drafted.generate(following)
    assert all(answer.num_cached_tokens >= 32 for answer in answers.values())
    assert answers == cold


def test_forms(best: Llama) -> None:
    rules = LogitsRules(byte_tokenizer, best.config.vocab_size)
    asked = [
        Asked(
            f"f{i}",
            tuple(token_ids(20 + 3 * i, seed=i)),
            replace(params, structured_outputs=form, min_tokens=i % 3),
            max_tokens=30,
            seed=i,
        )
        for i, (params, form) in enumerate(islice(zip(cycle(COMBINED), cycle(FORMS)), 12))
    ]
    alone = each_alone(best, asked, Setting(), rules)
    answers = EngineDriver(best, Setting(drafts=guessing(best, alone)), rules).generate(asked)
    assert num_drafted(answers)[1] > 40
    assert answers == alone


def test_a_form_that_drafts_complete_behind_the_end(best: Llama) -> None:
    """The answer has ended in circles by then, as it does without drafts."""
    rules = LogitsRules(byte_tokenizer, best.config.vocab_size)
    sampling = SamplingParams(
        temperature=0.0,
        structured_outputs=StructuredOutputs(choice=["aaab"]),
        repetition_detection=RepetitionDetection(max_pattern_size=1, min_count=3),
    )
    prompt = tuple(token_ids(20))
    asked = Asked("r", prompt, sampling, max_tokens=12, predicted=tuple(b"aaab"))
    alone = each_alone(best, [asked], Setting(), rules)
    answers = EngineDriver(best, Setting(drafts=looking_up), rules).generate([asked])
    assert num_drafted(answers)[0] == 3, "the whole rest"
    assert answers == alone
    assert answers["r"].finish_reason == alone["r"].finish_reason == "repetition"


def test_ends_that_depend_on_the_tokens_before(best: Llama) -> None:
    likely = SamplingParams(temperature=1.0, allowed_token_ids=[10, 11, 12, 13])
    asked = [
        Asked(f"e{i}", tuple(token_ids(9, seed=i)), params, max_tokens=20, seed=i)
        for i, params in enumerate(
            (
                replace(likely, stop_token_ids=[10]),
                replace(likely, stop_token_ids=[10, 11], min_tokens=9),
                replace(likely, frequency_penalty=1.5, repetition_penalty=1.5, logprobs=2),
            )
            * 3
        )
    ]
    alone = each_alone(best, asked, Setting())
    assert len({len(answer.token_ids) for answer in alone.values()}) > 2
    answers = EngineDriver(best, Setting(drafts=guessing(best, alone))).generate(asked)
    assert num_drafted(answers)[1] > 10
    assert answers == alone


def test_an_answer_that_goes_on_in_another_engine(best: Llama) -> None:
    alone = each_alone(best, long_answers(), Setting())
    rest = [
        replace(
            each,
            output=tuple(alone[each.name].token_ids[: 5 + index]),
            num_prompt_logprobs=len(alone[each.name].prompt_logprobs),
        )
        for index, each in enumerate(long_answers())
    ]
    setting = Setting(drafts=guessing(best, alone))
    answers = EngineDriver(best, setting).generate(rest)
    for index, each in enumerate(long_answers()):
        assert answers[each.name].token_ids == alone[each.name].token_ids[5 + index :]


def test_prompt_lookup_and_predictions(best: Llama) -> None:
    """Real guesses: a text that repeats itself, and a prediction that is nearly right."""
    repeated = tuple(token_ids(12)) * 5
    asked = [
        Asked("greedy", repeated, SamplingParams(temperature=0.0, logprobs=1), max_tokens=60),
        Asked("seeded", repeated, SamplingParams(temperature=0.6, top_k=3), max_tokens=60),
    ]
    alone = each_alone(best, asked, Setting())
    said = tuple(alone["seeded"].token_ids)
    asked[1] = replace(asked[1], predicted=(*said[:20], 1, *said[21:]))
    answers = EngineDriver(best, Setting(drafts=looking_up)).generate(asked)
    assert answers == alone
    assert answers["seeded"].num_accepted_tokens > 30
