"""Whatever comes together by chance, an answer is what its request gets alone, bit by bit.

Forms, penalties, stops, priorities, tenants, chunks, few blocks, cached prefixes, drafts, answers
that go on from another engine; among aborts, pauses and prefixes that are reset. To search longer,
raise NUM_SCENARIOS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from consistency.drafting import drafted
from consistency.test_speculation import best, looking_up
from fakes.byte_tokenizer import byte_tokenizer
from fakes.guessing_runner import GuessingRunner
from headrace.core.request import RepetitionDetection, SamplingParams
from headrace.core.structured_outputs import StructuredOutputs
from headrace.models.llama import Llama
from headrace.sampling.logits_rule import LogitsRules
from headrace.sched.request_state import RequestSpec
from oracle.engine_driver import EngineDriver, Setting
from oracle.isas import supported_isas
from oracle.tiny_models import token_ids

__all__ = ["best"]  # the fixture

NUM_SCENARIOS = 120
MOST_STEPS = 5000
FORMS = (
    None,
    None,
    None,
    StructuredOutputs(json={"type": "array", "items": {"type": "integer"}, "minItems": 3}),
    StructuredOutputs(regex="[a-b]{5}(xy)*"),
    StructuredOutputs(choice=["positively", "negatively", "aaab", "aaaa"]),
    StructuredOutputs(json_object=True),
)


@dataclass
class Got:
    """What came of a request, in order."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    prompt_logprobs: list[Any] = field(default_factory=list)
    ended: tuple[Any, ...] = ()
    """Finish reason, stop token, error, whether a form is complete."""


def a_sampling(chance: Random) -> SamplingParams:
    form = chance.choice(FORMS)
    max_tokens = chance.choice([1, 2, 7, 20, 40])
    some: dict[str, Any] = {
        "temperature": chance.choice([0, 0, 0.7, 1.3]),
        "structured_outputs": form,
    }
    options: list[tuple[float, dict[str, Any]]] = [
        (0.3, {"logprobs": chance.choice([0, 3])}),
        (0.2, {"prompt_logprobs": chance.choice([0, 2])}),
        (0.3, {"min_tokens": min(chance.randrange(8), max_tokens)}),
        (0.4, {"repetition_detection": a_repetition(chance)}),
        (0.3, {"stop_token_ids": [chance.randrange(256) for _ in range(chance.choice([1, 30]))]}),
        (0.3, {"frequency_penalty": 0.6, "repetition_penalty": 1.2}),
        (0.2, {"top_p": 0.9, "min_p": 0.01}),
        (0.2, {"logit_bias": {97: 3.0, 98: 2.0}}),
    ]
    if form is None:
        options.append((0.3, {"allowed_token_ids": list(range(97, 97 + chance.choice([2, 6])))}))
    for share, option in options:
        if chance.random() < share:
            some |= option
    return SamplingParams(max_tokens=max_tokens, **some)


def a_repetition(chance: Random) -> RepetitionDetection:
    return RepetitionDetection(
        max_pattern_size=chance.choice([1, 2, 4]), min_count=chance.choice([2, 3])
    )


def a_request(chance: Random, name: str, prompts: Sequence[tuple[int, ...]]) -> RequestSpec:
    prompt = chance.choice(prompts)
    if chance.random() < 0.5:
        prompt = prompt[: chance.randrange(1, len(prompt) + 1)]
    sampling = a_sampling(chance)
    assert sampling.max_tokens is not None
    bad_words = tuple((chance.randrange(97, 100), chance.randrange(97, 100)) for _ in range(2))
    return RequestSpec(
        request_id=name,
        prompt_token_ids=prompt,
        sampling=sampling,
        seed=chance.randrange(2**60),
        max_tokens=sampling.max_tokens,
        eos_token_ids=(chance.randrange(256),) if chance.random() < 0.3 else (),
        bad_words_ids=bad_words if chance.random() < 0.2 else (),
        tenant=chance.choice("ab"),
        cache_salt=chance.choice(["", "", "x"]),
        is_background=chance.random() < 0.2,
        priority=chance.choice([0, 0, 1]),
        predicted_token_ids=tuple(b"aaab") if chance.random() < 0.2 else (),
    )


def run(
    driver: EngineDriver, requests: Sequence[RequestSpec], chance: Random | None = None
) -> dict[str, Got]:
    """Run until nothing is left, disturbed by `chance`."""
    got: dict[str, Got] = {}
    left = list(requests)
    for _ in range(MOST_STEPS):
        if not (left or driver.engine.has_work or driver.scheduler.num_unfinished):
            break
        while left and (chance is None or chance.random() < 0.4 or not driver.engine.has_work):
            driver.scheduler.add(left.pop(0))
        if chance is not None:
            disturb(driver, chance, list(got))
        if driver.engine.has_work:
            take(driver, got)
    assert not left
    assert driver.scheduler.num_unfinished == 0
    assert driver.manager.usage == 0
    return got


def disturb(driver: EngineDriver, chance: Random, begun: Sequence[str]) -> None:
    if begun and chance.random() < 0.03:
        driver.scheduler.abort(chance.choice(begun))
    if chance.random() < 0.02:
        driver.scheduler.reset_prefixes(chance.random() < 0.5)
    if chance.random() < 0.02:
        driver.scheduler.hold("admissions" if chance.random() < 0.5 else "everything")
    elif chance.random() < 0.3 or not driver.engine.has_work:
        driver.scheduler.hold(None)


def take(driver: EngineDriver, got: dict[str, Got]) -> None:
    report = driver.engine.step()
    driver.scheduler.check_integrity()
    for each in report.progress:
        answer = got.setdefault(each.request_id, Got())
        assert not answer.ended, "nothing comes after the end"
        answer.tokens += each.new_token_ids
        answer.logprobs += each.logprobs
        answer.prompt_logprobs += each.prompt_logprobs
        if each.finish_reason is not None:
            answer.ended = (each.finish_reason, each.stop_token_id, each.error, each.is_complete)


def go_on(chance: Random, request: RequestSpec, alone: Got) -> tuple[RequestSpec, Got]:
    """The request as another engine left it, and what is still to come."""
    cut = chance.randrange(len(alone.tokens))
    known = len(alone.prompt_logprobs)
    told = known if cut else chance.randrange(known + 1)
    resumed = replace(request, output_token_ids=tuple(alone.tokens[:cut]), num_prompt_logprobs=told)
    rest = Got(alone.tokens[cut:], alone.logprobs[cut:], alone.prompt_logprobs[told:], alone.ended)
    return resumed, rest


def a_setting(chance: Random, model: Llama, other: Llama, answers: dict[str, list[int]]) -> Setting:
    setting = Setting(
        num_blocks=chance.choice([5, 6, 8, 64]),
        max_num_batched_tokens=chance.choice([9, 13, 40, 512]),
        max_num_seqs=chance.choice([2, 5, 9]),
        max_mixed_background_tokens=chance.choice([0, 4]),
        has_prefix_cache=chance.random() < 0.8,
    )
    kind = chance.choice(["guesses", "lookup", "draft model", "none"])
    if kind == "guesses":
        size, seed = model.config.vocab_size, chance.randrange(1000)
        return replace(
            setting, drafts=lambda runner: GuessingRunner(runner, answers, size, seed=seed)
        )
    if kind == "lookup":
        return replace(setting, drafts=looking_up)
    if kind == "draft model":
        draft = other if chance.random() < 0.5 else model
        return drafted(setting, draft, is_for_all=chance.random() < 0.5)
    return setting


@pytest.mark.parametrize("number", range(NUM_SCENARIOS))
def test_answers_are_those_of_the_request_alone(
    best: Llama, tiny: Callable[[str, str, int], Llama], number: int
) -> None:
    chance = Random(number)
    rules = LogitsRules(byte_tokenizer, best.config.vocab_size)
    lengths = [3, 20, 32, 33, 64, 65, 97]
    prompts = [tuple(token_ids(chance.choice(lengths), seed=chance.randrange(5))) for _ in range(3)]
    requests = [a_request(chance, f"r{i}", prompts) for i in range(chance.randrange(3, 10))]
    alone: dict[str, Got] = {}
    for request in requests:
        cold = EngineDriver(best, Setting(has_prefix_cache=False), rules)
        alone |= run(cold, [request])
    answers = {name: list(got.tokens) for name, got in alone.items()}
    for i, request in enumerate(requests):
        got = alone[request.request_id]
        if chance.random() < 0.35 and len(got.tokens) > 1:
            requests[i], alone[request.request_id] = go_on(chance, request, got)
    other = tiny("gemma3-small", supported_isas()[-1], 1)
    driver = EngineDriver(best, a_setting(chance, best, other, answers), rules)
    for _ in range(2):  # the second time prefixes are cached
        for name, got in run(driver, requests, chance).items():
            expected = alone[name]
            if got.ended[:1] == ("abort",):
                assert got.tokens == expected.tokens[: len(got.tokens)]
                continue
            if expected.ended[0] == "error":  # chunks before the error may have told theirs
                got.prompt_logprobs = expected.prompt_logprobs
            assert got == expected, name
