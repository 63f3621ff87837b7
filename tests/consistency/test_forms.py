"""Answers that must have a form, among others that need not: equal to the bit however scheduled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice

import pytest

from consistency.mixed_requests import SAMPLING
from fakes.byte_tokenizer import byte_tokenizer
from headrace.core.request import SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.models.llama import Llama
from headrace.sampling.logits_rule import LogitsRules
from oracle.engine_driver import Answer, Asked, EngineDriver, Setting
from oracle.isas import supported_isas
from oracle.tiny_models import token_ids

FORMS = (
    None,
    StructuredOutputs(json={"type": "array", "items": {"type": "integer"}, "minItems": 9}),
    StructuredOutputs(regex="[a-f]{30}(xy)*"),
    StructuredOutputs(choice=["positively", "negatively"]),
    StructuredOutputs(json_object=True),
)
# allowed_token_ids would leave nothing of some forms
COMBINED = tuple(each for each in SAMPLING if each.allowed_token_ids is None)


@pytest.fixture(scope="module")
def model(tiny: Callable[[str, str, int], Llama]) -> Llama:
    """Masks know nothing of instruction sets: one is enough."""
    if not supported_isas():
        pytest.skip("the C++ extension is not built")
    return tiny("qwen2-wide", supported_isas()[-1], 2)


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting()


@pytest.fixture(scope="module")
def rules(model: Llama) -> LogitsRules:
    return LogitsRules(byte_tokenizer, model.config.vocab_size)


def asked(count: int = 12) -> list[Asked]:
    """Every form with several kinds of sampling; numbers of both share no factor."""
    sampling = islice(zip(cycle(COMBINED), cycle(FORMS)), count)
    return [
        Asked(
            f"r{i}",
            tuple(token_ids(20 + 3 * i, seed=i)),
            replace(params, structured_outputs=form, min_tokens=i % 3),
            max_tokens=36,
            seed=i,
        )
        for i, (params, form) in enumerate(sampling)
    ]


@pytest.fixture(scope="module")
def apart(model: Llama, setting: Setting, rules: LogitsRules) -> dict[str, Answer]:
    cold = replace(setting, has_prefix_cache=False)
    answers: dict[str, Answer] = {}
    for each in asked():
        answers |= EngineDriver(model, cold, rules).generate([each])
    return answers


def test_they_have_their_forms(apart: dict[str, Answer]) -> None:
    for each in asked():
        answer = apart[each.name]
        assert answer.error is None
        form = each.sampling.structured_outputs
        if form is not None and form.form == "choice":
            assert bytes(answer.token_ids).decode() in (form.choice or ())
        if form is not None and form.form == "regex":
            assert set(answer.token_ids[:30]) <= set(b"abcdef")
            assert len(answer.token_ids) > 30


def test_in_batches_chunks_and_cached(
    model: Llama, setting: Setting, rules: LogitsRules, apart: dict[str, Answer]
) -> None:
    driver = EngineDriver(model, replace(setting, max_num_batched_tokens=40), rules)
    arrivals = {each.name: 2 * index for index, each in enumerate(reversed(asked()))}
    assert driver.generate(asked(), arrivals) == apart
    assert driver.generate(asked()) == apart


def test_preempted_and_recomputed(
    model: Llama, setting: Setting, rules: LogitsRules, apart: dict[str, Answer]
) -> None:
    crowded = replace(setting, num_blocks=8, max_num_batched_tokens=64)
    answers = EngineDriver(model, crowded, rules).generate(asked())
    assert sum(answer.num_preemptions for answer in answers.values()) >= 2
    assert answers == apart


def test_free_requests_are_what_they_are_without_forms(
    model: Llama, setting: Setting, apart: dict[str, Answer]
) -> None:
    free = [each for each in asked() if each.sampling.structured_outputs is None]
    plain = EngineDriver(model, replace(setting, has_prefix_cache=False)).generate(free)
    assert plain == {each.name: apart[each.name] for each in free}


def test_a_form_does_not_change_the_models_own_numbers(
    model: Llama, setting: Setting, rules: LogitsRules
) -> None:
    """A form that allows every byte changes nothing while the model chooses bytes."""
    params = SamplingParams(temperature=0.0, logprobs=5, allowed_token_ids=list(range(97, 123)))
    bound = replace(params, structured_outputs=StructuredOutputs(regex="[a-z]*"))
    prompt = tuple(token_ids(30))
    answers = EngineDriver(model, setting, rules).generate(
        [Asked("free", prompt, params), Asked("bound", prompt, bound)]
    )
    assert answers["free"] == answers["bound"]
