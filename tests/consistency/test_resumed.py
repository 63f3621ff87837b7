"""An answer that another engine began goes on with the same bits: tokens, logprobs, forms, ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice

import pytest

from consistency.mixed_requests import SAMPLING, requests
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
    StructuredOutputs(regex="[a-f]{20}(xy)*"),
    StructuredOutputs(choice=["positively", "negatively"]),
)
COMBINED = tuple(each for each in SAMPLING if each.allowed_token_ids is None)


@pytest.fixture(scope="module")
def model(tiny: Callable[[str, str, int], Llama]) -> Llama:
    """What is rebuilt knows nothing of instruction sets: one is enough."""
    if not supported_isas():
        pytest.skip("the C++ extension is not built")
    return tiny("qwen2-wide", supported_isas()[-1], 2)


def formed(count: int = 9) -> list[Asked]:
    sampling = islice(zip(cycle(COMBINED), cycle(FORMS)), count)
    return [
        Asked(
            f"f{i}",
            tuple(token_ids(20 + 3 * i, seed=i)),
            replace(params, structured_outputs=form, min_tokens=i % 3),
            max_tokens=30,
            seed=i,
        )
        for i, (params, form) in enumerate(sampling)
    ]


def bounded() -> list[Asked]:
    """Ends that depend on how many tokens there are, and on which came before."""
    likely = SamplingParams(temperature=1.0, allowed_token_ids=[10, 11, 12, 13])
    changes: tuple[Mapping[str, object], ...] = (
        {"stop_token_ids": [10]},
        {"stop_token_ids": [10, 11], "min_tokens": 9},
        {"frequency_penalty": 1.5, "repetition_penalty": 1.5},
    )
    return [
        Asked(f"b{i}", tuple(token_ids(40, seed=i)), replace(likely, **each), max_tokens=20, seed=i)  # type: ignore[arg-type]
        for i, each in enumerate(changes)
    ]


def rest_of(asked: Sequence[Asked], begun: Mapping[str, Answer]) -> list[Asked]:
    """What is to be asked of the next engine."""
    return [
        replace(
            each,
            output=tuple(begun[each.name].token_ids),
            num_prompt_logprobs=len(begun[each.name].prompt_logprobs),
        )
        for each in asked
        if not begun[each.name].is_finished
    ]


def joined(first: Answer, second: Answer | None) -> Answer:
    if second is None:
        return first
    return Answer(
        first.token_ids + second.token_ids,
        first.logprobs + second.logprobs,
        first.prompt_logprobs + second.prompt_logprobs,
        second.error,
    )


@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 8, 13])
def test_an_engine_takes_over_after_any_step(model: Llama, num_steps: int) -> None:
    rules = LogitsRules(byte_tokenizer, model.config.vocab_size)
    asked = [*requests(), *formed(), *bounded()]
    setting = Setting(max_num_batched_tokens=256)
    undisturbed = EngineDriver(model, setting, rules).generate(asked)
    begun = EngineDriver(model, setting, rules).generate(asked, max_steps=num_steps)
    rest = rest_of(asked, begun)
    assert len(rest) > len(asked) // 3
    taken_over = EngineDriver(model, setting, rules).generate(rest)
    for each in asked:
        answer = joined(begun[each.name], taken_over.get(each.name))
        assert answer == undisturbed[each.name], each.name
