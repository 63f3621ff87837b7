"""A draft model's guesses change when a token is computed, never what it is: the bits are equal.

A model that drafts for itself is right each time, whatever the sampling: it draws with the same
noise. One that is like the target is right often, one that is not is right by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import cycle, islice

import pytest

from consistency.drafting import drafted, num_drafted
from consistency.mixed_requests import SAMPLING, requests
from fakes.byte_tokenizer import byte_tokenizer
from headrace.core.request import SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.executor.draft_model import DraftModel, Guess
from headrace.models.llama import Llama
from headrace.sampling.logits_rule import LogitsRules
from headrace.spec import draft_length
from oracle.driver import load_model
from oracle.engine_driver import Answer, Asked, EngineDriver, Setting
from oracle.isas import supported_isas
from oracle.tiny_models import build, case, save, token_ids


@pytest.fixture(scope="module")
def best(tiny: Callable[..., Llama]) -> Llama:
    if not supported_isas():
        pytest.skip("the C++ extension is not built")
    return tiny("qwen2-wide", supported_isas()[-1], 2)


@pytest.fixture(scope="module")
def other(tiny: Callable[..., Llama]) -> Llama:
    """A model of another kind, with the same number of tokens."""
    return tiny("gemma3-small", supported_isas()[-1], 2)


@pytest.fixture(scope="module")
def alike(best: Llama, tmp_path_factory: pytest.TempPathFactory) -> Llama:
    """The same weights before they were quantized."""
    folder = save(build(case("qwen2-wide")), tmp_path_factory.mktemp("alike"))
    return load_model(folder, best.ops)


def long_requests(count: int = 7, max_tokens: int = 40) -> list[Asked]:
    return [
        Asked(
            f"r{i}",
            tuple(token_ids(20 + 9 * i, seed=i)),
            SAMPLING[i % len(SAMPLING)],
            max_tokens=max_tokens,
            seed=i,
        )
        for i in range(count)
    ]


def each_alone(
    model: Llama, asked: list[Asked], setting: Setting, rules: LogitsRules | None = None
) -> dict[str, Answer]:
    cold = replace(setting, has_prefix_cache=False, drafts=None)
    answers: dict[str, Answer] = {}
    for each in asked:
        answers |= EngineDriver(model, cold, rules).generate([each])
    return answers


def test_a_model_that_drafts_for_itself_is_always_right(
    model: Llama, setting: Setting, alone: dict[str, Answer]
) -> None:
    driver = EngineDriver(model, drafted(replace(setting, max_num_seqs=3), model))
    answers = driver.generate(requests())
    assert answers == alone
    num_draft_tokens, num_accepted_tokens = num_drafted(answers)
    assert num_accepted_tokens == num_draft_tokens > 4


def test_every_kind_of_sampling_with_a_draft_like_the_target(best: Llama, alike: Llama) -> None:
    """Right often and wrong often, greedy and drawn."""
    asked = long_requests(14)
    alone = each_alone(best, asked, Setting())
    answers = EngineDriver(best, drafted(Setting(max_num_seqs=3), alike)).generate(asked)
    assert answers == alone
    for index in range(len(SAMPLING)):
        same = {each.name: answers[each.name] for each in asked[index :: len(SAMPLING)]}
        assert num_drafted(same)[0] > 0
    num_draft_tokens, num_accepted_tokens = num_drafted(answers)
    assert num_draft_tokens > num_accepted_tokens > num_draft_tokens / 5


def test_a_draft_that_knows_nothing(best: Llama, other: Llama) -> None:
    asked = long_requests()
    answers = EngineDriver(best, drafted(Setting(max_num_seqs=3), other, sharpness=1.4)).generate(
        asked
    )
    assert answers == each_alone(best, asked, Setting())
    num_draft_tokens, num_accepted_tokens = num_drafted(answers)
    assert num_draft_tokens > num_accepted_tokens


def test_one_request_cannot_lose_what_others_have_saved(
    best: Llama, other: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any credit, a request whose guesses are wrong pays for passes of two steps and what its
    own tokens add."""
    for limit in ("FIRST_CREDIT", "MAX_CREDIT"):
        monkeypatch.setattr(draft_length, limit, 1000.0)
    passes: list[str] = []
    run = DraftModel.run

    def counted(self: DraftModel, wanted: Mapping[str, int]) -> dict[str, Guess]:
        passes.extend(wanted)
        return run(self, wanted)

    monkeypatch.setattr(DraftModel, "run", counted)
    ratio, num_tokens, num_requests = 0.35, 90, 4
    setting = drafted(Setting(max_num_seqs=1), other, pass_ratio=ratio)
    greedy = SamplingParams(temperature=0.0)
    asked = [
        Asked(f"{n}", tuple(token_ids(8, n)), greedy, max_tokens=num_tokens)
        for n in range(num_requests)
    ]
    EngineDriver(best, setting).generate(asked)
    lost = draft_length.MAX_REQUEST_LOSS + draft_length.LOSS_SHARE * num_tokens
    assert 0 < len(passes) <= num_requests * (lost / ratio + 2)  # the last one, and catching up


@pytest.mark.parametrize("kv_cache_dtype", ["bf16", "int8"])
def test_preempted(best: Llama, alike: Llama, kv_cache_dtype: str) -> None:
    setting = Setting(kv_cache_dtype=kv_cache_dtype)  # type: ignore[arg-type]
    asked = long_requests(5, max_tokens=36)
    crowded = replace(setting, num_blocks=5, max_num_batched_tokens=40)
    answers = EngineDriver(best, drafted(crowded, alike)).generate(asked)
    assert sum(answer.num_preemptions for answer in answers.values()) >= 1
    assert num_drafted(answers)[1] > 10
    assert answers == each_alone(best, asked, setting)


def test_guesses_that_nobody_asked_for_come_true(best: Llama) -> None:
    """Beside others a background request gets one token a step, and its guesses stay unused."""
    plain = SamplingParams(temperature=0.0)
    batch = Asked("batch", tuple(token_ids(20)), plain, max_tokens=40, is_background=True)
    chat = Asked("chat", tuple(token_ids(30, seed=2)), plain, max_tokens=12)
    driver = EngineDriver(best, drafted(Setting(max_mixed_background_tokens=1), best))
    answers = driver.generate([batch, chat], arrivals={"chat": 8})
    assert answers == each_alone(best, [batch, chat], Setting())
    assert num_drafted(answers)[1] > 4


def test_what_the_cache_holds_need_not_be_drafted_again(best: Llama) -> None:
    """A prefix that is found is found for the draft model too, where it has computed it."""
    setting = drafted(Setting(num_blocks=200), best)
    driver = EngineDriver(best, setting)
    plain = SamplingParams(temperature=0.0, logprobs=3)
    first = [Asked("first", tuple(token_ids(100)), plain, max_tokens=40)]
    said = tuple(driver.generate(first)["first"].token_ids)
    second = [Asked("second", (*first[0].prompt, *said, 9), plain, max_tokens=20)]
    passes = []
    model = driver._driven._guesser._draft  # type: ignore[attr-defined]
    run = model.run
    model.run = lambda wanted: (passes.append(sum(wanted.values())), run(wanted))[1]
    answers = driver.generate(second)
    assert answers["second"].num_cached_tokens == 139
    # The rest of the prompt, and the answer: what the cache holds is not in it.
    assert sum(passes) < 45
    assert num_drafted(answers)[1] == num_drafted(answers)[0] > 10
    assert answers == each_alone(best, second, Setting())


def test_long_prompts_are_caught_up_with_in_chunks(best: Llama) -> None:
    asked = [Asked("a", tuple(token_ids(190)), SamplingParams(temperature=0.0), max_tokens=30)]
    driver = EngineDriver(best, drafted(Setting(max_num_batched_tokens=64), best))
    answers = driver.generate(asked)
    assert num_drafted(answers)[1] > 15
    assert answers == each_alone(best, asked, Setting())


FORMS = (
    None,
    StructuredOutputs(json={"type": "array", "items": {"type": "integer"}, "minItems": 9}),
    StructuredOutputs(regex="[a-f]{20}(xy)*"),
)


def test_forms_and_ends(best: Llama) -> None:
    """The draft model knows no form; what it guesses outside of it is wrong."""
    rules = LogitsRules(byte_tokenizer, best.config.vocab_size)
    combined = [each for each in SAMPLING if each.allowed_token_ids is None]
    asked = [
        Asked(
            f"f{i}",
            tuple(token_ids(20 + 3 * i, seed=i)),
            replace(params, structured_outputs=form, min_tokens=i % 3, stop_token_ids=[48, 100]),
            max_tokens=30,
            seed=i,
        )
        for i, (params, form) in enumerate(islice(zip(cycle(combined), cycle(FORMS)), 9))
    ]
    alone = each_alone(best, asked, Setting(), rules)
    setting = drafted(Setting(max_num_seqs=3), best)
    answers = EngineDriver(best, setting, rules).generate(asked)
    num_draft_tokens, num_accepted_tokens = num_drafted(answers)
    assert num_draft_tokens > num_accepted_tokens > 0
    assert answers == alone


def test_an_answer_that_goes_on_in_another_engine(best: Llama, alike: Llama) -> None:
    asked = long_requests(3)
    alone = each_alone(best, asked, Setting())
    rest = [
        replace(
            each,
            output=tuple(alone[each.name].token_ids[: 5 + index]),
            num_prompt_logprobs=len(alone[each.name].prompt_logprobs),
        )
        for index, each in enumerate(asked)
    ]
    answers = EngineDriver(best, drafted(Setting(), alike)).generate(rest)
    assert num_drafted(answers)[0] > 0
    for index, each in enumerate(asked):
        assert answers[each.name].token_ids == alone[each.name].token_ids[5 + index :]


def test_lookup_first_and_the_model_where_it_has_nothing(best: Llama, alike: Llama) -> None:
    repeated = tuple(token_ids(12)) * 5
    asked = [
        Asked("copies", repeated, SamplingParams(temperature=0.0, logprobs=1), max_tokens=60),
        Asked("new", tuple(token_ids(30)), SamplingParams(temperature=0.8), max_tokens=40),
    ]
    setting = drafted(Setting(), alike, is_for_all=True)
    answers = EngineDriver(best, setting).generate(asked)
    assert answers == each_alone(best, asked, Setting())
    assert answers["copies"].num_accepted_tokens > 15
    assert answers["new"].num_accepted_tokens > 5


def test_a_head_with_fewer_tokens(best: Llama, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It guesses none of the others; rules that name those do no harm."""
    folder = save(build(case("qwen2-wide")), tmp_path_factory.mktemp("half"))
    half = load_model(folder, best.ops, head_rows=160)
    asked = long_requests(7)
    answers = EngineDriver(best, drafted(Setting(max_num_seqs=3), half)).generate(asked)
    assert answers == each_alone(best, asked, Setting())
    assert num_drafted(answers)[1] > 10
